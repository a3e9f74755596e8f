"""Semantic ids of a catalogue: a code sequence per item, the same for similar items at first, unique at its end.

An id is the code of each quantiser level and then a collision code, which numbers the items that share all the others
(TIGER, Rajput et al., NeurIPS 2023, arXiv 2305.05065): 0 for the first or only one. Within a group the order is by
popularity where counts are given (MMGRec, arXiv 2404.16555), else by row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from llmrec.errors import CacheError, ConfigError, DataError
from llmrec.semid.base import EncoderState, IntArray, Quantiser, Vectors, check_vectors
from llmrec.semid.lookup import NONE, CodeLookup

if TYPE_CHECKING:
    from pathlib import Path

    from llmrec.data.catalogue import Catalogue

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, eq=False)
class SemanticIds:
    """The ids of one catalogue, and what it takes to give ids to new items.

    Raises:
        ConfigError: fewer than two levels, or more than letters for their token texts.
        DataError: a code lies outside its level, or two items have the same code.
    """

    codes: IntArray
    """Shape (n_items, depth), read-only; the last column is the collision code."""
    sizes: tuple[int, ...]
    """Number of codes per level, the collision level last, shape (depth,)."""
    catalogue_hash: str
    """`Catalogue.content_hash` of the items, in their order."""
    quantiser: Quantiser | None = None
    """None for codes from elsewhere; new items can then not be encoded."""
    encoder: EncoderState | None = None
    """Where the vectors came from; None where the caller brought them."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """How the ids were made (seed, seconds, variance left, ...): plain JSON values."""

    def __post_init__(self) -> None:
        codes = np.array(self.codes, dtype=np.int64)
        if codes.ndim != 2 or codes.shape[1] != len(self.sizes) or len(codes) == 0:
            raise DataError(f"codes must have shape (n_items, {len(self.sizes)}), got {codes.shape!r}")
        if not 2 <= len(self.sizes) <= len(_LETTERS):
            raise ConfigError(
                f"semantic ids have 2 to {len(_LETTERS)} levels (the last numbers collisions), got sizes {self.sizes!r}"
            )
        wrong = np.argwhere((codes < 0) | (codes >= np.array(self.sizes)))
        if len(wrong):
            row, level = wrong[0].tolist()
            raise DataError(
                f"code {int(codes[row, level])} of item row {row} lies outside level {level}, which has "
                f"{self.sizes[level]} codes; make the ids again"
            )
        codes.setflags(write=False)
        object.__setattr__(self, "codes", codes)
        self._check_unique()

    def _check_unique(self) -> None:
        own = self._lookup.rows(self.codes)
        double = np.flatnonzero(own != np.arange(len(own)))
        if len(double):
            row = int(double[0])
            raise DataError(
                f"item rows {int(own[row])} and {row} have the same code {self.codes[row].tolist()!r}; "
                "make the ids with SemanticIds.from_prefixes, which numbers collisions"
            )

    @classmethod
    def from_prefixes(
        cls,
        prefixes: IntArray,
        levels: Sequence[int],
        *,
        catalogue_hash: str,
        counts: npt.NDArray[np.int64] | None = None,
        collision_size: int | None = None,
        quantiser: Quantiser | None = None,
        encoder: EncoderState | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> SemanticIds:
        """Complete quantiser codes by collision codes.

        Args:
            prefixes: codes of the quantiser, shape (n_items, levels).
            levels: number of codes per level.
            catalogue_hash: of the catalogue whose rows these are.
            counts: popularity, shape (n_items,): the most popular item of a group gets 0. None orders by row.
            collision_size: codes of the collision level; default the largest of `levels`, or the largest group where
                that is larger.
            quantiser: for new items.
            encoder: for new items.
            facts: how the codes were made.

        Raises:
            ConfigError: a group has more items than `collision_size`.
        """
        prefixes = np.asarray(prefixes, dtype=np.int64)
        numbers = number_collisions(prefixes, counts)
        largest = int(numbers.max(initial=0)) + 1
        size = collision_size or max(*levels, largest)
        if largest > size:
            raise ConfigError(
                f"{largest} items share one code prefix, but the collision level has {size} codes; "
                "use more levels or codes, better vectors, or a larger collision_size"
            )
        return cls(
            codes=np.concatenate([prefixes, numbers[:, None]], axis=1),
            sizes=(*(int(level) for level in levels), size),
            catalogue_hash=catalogue_hash,
            quantiser=quantiser,
            encoder=encoder,
            facts=dict(facts or {}),
        )

    def __len__(self) -> int:
        return len(self.codes)

    def __repr__(self) -> str:
        return f"SemanticIds(n={len(self)}, sizes={self.sizes}, fingerprint={self.fingerprint!r})"

    @property
    def depth(self) -> int:
        """Codes per item, the collision code included."""
        return len(self.sizes)

    @property
    def n_tokens(self) -> int:
        """Number of different tokens over all levels."""
        return sum(self.sizes)

    @property
    def offsets(self) -> IntArray:
        """Number of the first token of each level, shape (depth,)."""
        return np.concatenate([[0], np.cumsum(self.sizes[:-1])]).astype(np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of the codes: a model trained on other ids must not be used with these."""
        digest = hashlib.sha256(repr(self.sizes).encode())
        digest.update(self.codes.astype("<i8").tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def _lookup(self) -> CodeLookup:
        return CodeLookup(self.codes, self.sizes)

    def n_prefixes(self) -> tuple[int, ...]:
        """Number of different prefixes per depth; the last is the number of items."""
        return self._lookup.n_prefixes()

    def code_of(self, row: int) -> tuple[int, ...]:
        """Codes of an item.

        Raises:
            DataError: there is no such row.
        """
        if not 0 <= row < len(self):
            raise DataError(f"no item in row {row!r}; these ids are for rows 0 to {len(self) - 1}")
        return tuple(self.codes[row].tolist())

    def item_of(self, codes: Sequence[int]) -> int | None:
        """Row of the item with this whole code, or None."""
        row = int(self.items_of(np.asarray([codes], dtype=np.int64))[0])
        return None if row == NONE else row

    def items_of(self, codes: IntArray) -> IntArray:
        """Row of each whole code, -1 where no item has it.

        Args:
            codes: shape (m, depth).

        Raises:
            DataError: another number of codes per item.
        """
        if codes.ndim != 2 or codes.shape[1] != self.depth:
            raise DataError(f"codes must have shape (m, {self.depth}), got {codes.shape!r}")
        return self._lookup.rows(codes)

    def tokens(self) -> IntArray:
        """Global token numbers, shape (n_items, depth): code plus the offset of its level, 0 to n_tokens - 1."""
        return self.codes + self.offsets

    def token_texts(self) -> list[str]:
        """A text per token, by global number: ``<|a_12|>`` is code 12 of the first level, ``<|b_3|>`` of the second."""
        return [f"<|{letter}_{code}|>" for letter, size in self._named_levels() for code in range(size)]

    def text_of(self, row: int) -> str:
        """The token texts of an item, joined."""
        codes = zip(self._named_levels(), self.code_of(row), strict=True)
        return "".join(f"<|{letter}_{code}|>" for (letter, _), code in codes)

    def _named_levels(self) -> list[tuple[str, int]]:
        return list(zip(_LETTERS, self.sizes, strict=False))

    def nearest_by_prefix(self, codes: Sequence[int], n: int = 10) -> list[tuple[int, int]]:
        """Items that share the longest prefix with a code: (row, shared codes), longest first, ties by row.

        Items that share nothing are left out.
        """
        shared = self._lookup.shared_depth(np.asarray(codes[: self.depth], dtype=np.int64))
        rows = np.lexsort((np.arange(len(shared)), -shared))[:n]
        return [(int(row), int(shared[row])) for row in rows if shared[row] > 0]

    def encode_new(self, vectors: npt.NDArray[Any]) -> IntArray:
        """Codes for items that are not in the catalogue, without fitting anything again, shape (m, depth).

        Each gets the next free collision code of its prefix; several of one call with the same prefix follow another.

        Args:
            vectors: made by the encoder of the catalogue's vectors, shape (m, dimensions).

        Raises:
            ConfigError: these ids have no quantiser, or a collision level is full.
            DataError: the vectors do not fit.
        """
        if self.quantiser is None:
            raise ConfigError(
                "these ids were made without a quantiser, so new items cannot be encoded; build them anew"
            )
        prefixes = self.quantiser.encode(check_vectors(vectors, dimensions=self.quantiser.dimensions))
        taken = self._taken(prefixes)
        numbers = taken + number_collisions(prefixes, None)
        full = np.flatnonzero(numbers >= self.sizes[-1])
        if len(full):
            prefix = prefixes[full[0]].tolist()
            raise ConfigError(
                f"no free collision code for prefix {prefix!r}: its level has {self.sizes[-1]} codes; "
                "build the ids anew with a larger collision_size or with more levels or codes"
            )
        return np.concatenate([prefixes, numbers[:, None]], axis=1)

    def _taken(self, prefixes: IntArray) -> IntArray:
        """The first free collision code of each prefix, shape (m,)."""
        nodes = self._lookup.find(prefixes)
        own = self._lookup.nodes[:, self.depth - 2]
        free = np.zeros(int(own.max()) + 1, dtype=np.int64)
        np.maximum.at(free, own, self.codes[:, -1] + 1)
        return np.where(nodes == NONE, 0, free[np.maximum(nodes, 0)])

    def extended(self, catalogue: Catalogue, vectors: npt.NDArray[Any]) -> SemanticIds:
        """Ids for a catalogue that has new items at its end; old codes stay as they are.

        Args:
            catalogue: begins with exactly the items of these ids.
            vectors: of the new items alone, shape (n_new, dimensions).

        Raises:
            CacheError: the first items of the catalogue are not those of these ids.
            DataError: another number of vectors than of new items.
            ConfigError: as `encode_new`.
        """
        from llmrec.data.catalogue import hash_table

        known = hash_table(catalogue.table.slice(0, len(self)))
        if len(catalogue) < len(self) or known != self.catalogue_hash:
            raise CacheError(
                f"the first {len(self)} items of the catalogue (hash {known}) are not those of the semantic ids "
                f"(hash {self.catalogue_hash}); put new items after the old ones, or build the ids anew"
            )
        new = len(catalogue) - len(self)
        if len(vectors) != new:
            raise DataError(f"the catalogue has {new} new items, got {len(vectors)} vectors; give one for each")
        codes = np.concatenate([self.codes, self.encode_new(vectors)]) if new else self.codes
        # What was measured on the old items alone is left out.
        measured = {name: fact for name, fact in self.facts.items() if name != "variance_left"}
        facts = {**measured, "extended_by": int(self.facts.get("extended_by", 0)) + new}
        return replace(self, codes=codes, catalogue_hash=catalogue.content_hash, facts=facts)

    def reconstruct(self, rows: IntArray | None = None) -> Vectors:
        """Vectors that the codes stand for, shape (n, dimensions); of all items by default.

        Raises:
            ConfigError: these ids have no quantiser.
        """
        if self.quantiser is None:
            raise ConfigError("these ids were made without a quantiser, so codes stand for no vectors; build them anew")
        return self.quantiser.decode((self.codes if rows is None else self.codes[rows])[:, :-1])

    def check(self, catalogue: Catalogue) -> None:
        """Refuse a catalogue that these ids were not made for.

        Raises:
            CacheError: names both hashes.
        """
        if catalogue.content_hash != self.catalogue_hash:
            raise CacheError(
                f"the semantic ids were made for the catalogue {self.catalogue_hash}, this one is "
                f"{catalogue.content_hash} ({len(self)} and {len(catalogue)} items); build the ids anew, "
                "or extend them where items were only added at the end"
            )

    def save(self, folder: Path) -> None:
        """Write the artifact; see `llmrec.semid.storage.save`."""
        from llmrec.semid.storage import save

        save(self, folder)

    @classmethod
    def load(cls, folder: Path, catalogue: Catalogue | None = None) -> SemanticIds:
        """Read an artifact and check it against a catalogue; see `llmrec.semid.storage.load`."""
        from llmrec.semid.storage import load

        return load(folder, catalogue)


def number_collisions(prefixes: IntArray, counts: npt.NDArray[np.int64] | None) -> IntArray:
    """Number the rows that share a prefix from 0: by falling count where counts are given, then by row. Shape (n,)."""
    n = len(prefixes)
    if n == 0:
        return np.zeros(0, dtype=np.int64)
    popularity = np.zeros(n, dtype=np.int64) if counts is None else np.asarray(counts, dtype=np.int64)
    if len(popularity) != n:
        raise DataError(f"counts must have one value per item ({n}), got {len(popularity)}")
    order = np.lexsort((np.arange(n), -popularity, *prefixes.T[::-1]))
    ordered = prefixes[order]
    starts = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])
    first = np.maximum.accumulate(np.where(starts, np.arange(n), 0))
    numbers = np.empty(n, dtype=np.int64)
    numbers[order] = np.arange(n) - first
    return numbers
