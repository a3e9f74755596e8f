"""Whatever bytes a table holds, loading it works or fails with one of our errors."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmrec.data.spec import load
from llmrec.errors import UserError
from tests.malformed.cases_data import EVENTS, ITEMS

_JSON_ITEMS = '{"item_id": "a", "title": "A", "x": [1]}\n{"item_id": "b", "title": "B", "x": null}\n'
_JSON_EVENTS = (
    '{"user_id": "u", "item_id": "a", "timestamp": 1, "rating": 2}\n'
    '{"user_id": "u", "item_id": "b", "timestamp": "2020-01-01", "rating": null}\n'
)
_FILES = {
    ("items.csv", "interactions.csv"): (ITEMS, EVENTS),
    ("items.jsonl", "interactions.jsonl"): (_JSON_ITEMS, _JSON_EVENTS),
}
_JUNK = st.sampled_from(
    [b'"', b",", b"\n", b"\r", b"\x00", b"\xff", b"|", b"{", b"}", b"-", b"9" * 20, b"1e400", b"\xef\xbb\xbf"]
)


def _loads_or_complains(names: tuple[str, str], contents: tuple[bytes, bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in zip(names, contents, strict=True):
            (folder / file).write_bytes(content)
        try:
            dataset = load(f"table:{folder}", cache=folder / "cache")
        except UserError:
            return
        assert len(dataset.interactions) > 0
        assert all(row.reason for row in dataset.rejected)
        for row in range(len(dataset.catalogue)):
            assert dataset.catalogue.flat(row)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(list(_FILES)),
    st.integers(0, 1),
    st.lists(st.tuples(st.floats(0, 1), _JUNK), min_size=1, max_size=4),
)
@example(("items.jsonl", "interactions.jsonl"), 1, [(0.0, b"{")])
def test_junk_in_a_good_file(names: tuple[str, str], which: int, junk: list[tuple[float, bytes]]) -> None:
    contents = [text.encode() for text in _FILES[names]]
    for where, piece in junk:
        at = int(where * len(contents[which]))
        contents[which] = contents[which][:at] + piece + contents[which][at + len(piece) // 2 :]
    _loads_or_complains(names, (contents[0], contents[1]))


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(list(_FILES)), st.binary(max_size=80), st.binary(max_size=80))
def test_any_bytes(names: tuple[str, str], items: bytes, events: bytes) -> None:
    _loads_or_complains(names, (items, events))
