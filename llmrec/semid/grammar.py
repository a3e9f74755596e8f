"""A prefix table as a grammar, for engines with structured outputs: a Lark grammar, a list of choices, a regex.

Grammars suit small tables (engines compile every branch); for more than `MAX_ITEMS` use `llmrec.semid.beam` or
`llmrec.semid.vllm_processor`. Lark has two forms: by token number (exact: no other tokens can spell the same text), or
by text, like the choices and the regex.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import numpy as np

from llmrec.errors import ConfigError
from llmrec.semid.prefix_table import PAD, ROOT, PrefixTable

MAX_ITEMS = 20_000


def to_lark(table: PrefixTable, texts: Sequence[str] | None = None) -> str:
    """A Lark grammar in llguidance's dialect, one rule for each inner node.

    Args:
        table: paths.
        texts: text of each token, indexed by token number; None writes numbers, `<[123]>`.

    Raises:
        ConfigError: the table is too large.
    """
    _check(table)
    leaf = np.diff(table.indptr) == 0
    lines = []
    for node in np.flatnonzero(~leaf):
        children = range(table.indptr[node], table.indptr[node + 1])
        last = [_lark_token(int(table.token[child]), texts) for child in children if leaf[child]]
        options = [f"{_lark_token(int(table.token[child]), texts)} n{child}" for child in children if not leaf[child]]
        if texts is None and last:  # one set of numbers instead of many alternatives
            numbers = ",".join(str(int(table.token[child])) for child in children if leaf[child])
            last = [f"<[{numbers}]>"]
        lines.append(f"{'start' if node == ROOT else f'n{node}'}: {' | '.join([*options, *last])}")
    return "\n".join(lines) + "\n"


def to_choices(table: PrefixTable, texts: Sequence[str]) -> list[str]:
    """Text of every path, in the table's order, each once (the value of a `choice` constraint)."""
    _check(table)
    paths = table.paths(np.unique(table.leaves))
    return sorted({"".join(texts[token] for token in path if token != PAD) for path in paths})


def to_regex(table: PrefixTable, texts: Sequence[str]) -> str:
    """A regular expression for the texts of all paths, nested as the table is (dialect: groups, `|`, escapes)."""
    _check(table)
    leaf = np.diff(table.indptr) == 0
    below: dict[int, str] = {}
    for node in range(table.n_nodes - 1, -1, -1):  # children have higher numbers than their parents
        if leaf[node]:
            below[node] = ""
            continue
        children = range(table.indptr[node], table.indptr[node + 1])
        options = [re.escape(texts[table.token[child]]) + below.pop(child) for child in children]
        below[node] = options[0] if len(options) == 1 else f"(?:{'|'.join(options)})"
    return below[ROOT]


def _lark_token(token: int, texts: Sequence[str] | None) -> str:
    return f"<[{token}]>" if texts is None else json.dumps(texts[token], ensure_ascii=False)


def _check(table: PrefixTable) -> None:
    if table.n_items > MAX_ITEMS:
        raise ConfigError(
            f"a grammar of {table.n_items} items is too large to compile (at most {MAX_ITEMS}); "
            "decode with llmrec.semid.beam or llmrec.semid.vllm_processor"
        )
