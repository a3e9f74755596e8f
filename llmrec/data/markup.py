"""HTML that shops leave in their exports, as plain text."""

from __future__ import annotations

import html
import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_TAGS = (
    "a|abbr|article|b|big|blockquote|body|br|center|code|dd|div|dl|dt|em|font|footer|h[1-6]|head|header|hr|html|i|iframe|"
    "img|li|link|meta|nav|ol|p|pre|s|section|small|span|strike|strong|sub|sup|table|tbody|td|tfoot|th|thead|tr|tt|u|ul"
)
_TAG = rf"(?i:</?(?:{_TAGS}|script|style)(?:\s[^<>]{{0,1000}})?/?>)"
_ENTITY = r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,30});"
_ESCAPED_TAG = rf"(?i:&lt;/?(?:{_TAGS}|script|style)\b)"
_HIDDEN = re.compile(r"<(script|style)\b.*?</\1\s*>|<!--.*?-->", re.IGNORECASE | re.DOTALL)
_COMPILED_TAG = re.compile(_TAG)
_MARKUP = rf"{_TAG}|{_ENTITY}|<!--|{_ESCAPED_TAG}"  # understood by RE2 as well


def plain_text(text: str) -> str:
    """A text without entities, tags of HTML, scripts, comments and line ends; "" when nothing is left.

    Only names of HTML's elements count as tags: "<3" and "1 < 2 > 0" stay.
    """
    return " ".join(_COMPILED_TAG.sub(" ", _HIDDEN.sub(" ", html.unescape(text))).split())


def without_markup(column: Any, name: str, notes: list[str]) -> Any:
    """A column of strings whose values with markup are plain text; the others stay as they are, white space too.

    Args:
        column: Arrow strings, shape (n,).
        name: for notes.
        notes: gets a line when values were changed.
    """
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    marked = pc.fill_null(pc.match_substring_regex(column, _MARKUP), False)
    old = column.filter(marked).to_pylist()
    new = [plain_text(text) or None for text in old]
    changed = [text for text, other in zip(old, new, strict=True) if text != other]
    if not changed:
        return column
    first = changed[0] if len(changed[0]) <= 60 else changed[0][:60] + "…"
    notes.append(f"column {name}: HTML was taken out of {len(changed)} values, first {first!r}")
    return pc.replace_with_mask(column, marked, pa.array(new, column.type))
