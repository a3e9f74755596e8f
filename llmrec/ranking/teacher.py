"""What a teacher recommends behind prefixes of training histories: asked once, kept in a file."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmrec.data.arrow import storage_errors
from llmrec.errors import CacheError, ConfigError, DataError
from llmrec.metrics.ranking import masked_scores, top_k_of_masked
from llmrec.retrieval.base import FloatArray, IntArray
from llmrec.seeding import derive

if TYPE_CHECKING:
    from llmrec.data.interactions import Interactions
    from llmrec.retrieval.base import Recommender


@dataclass(frozen=True)
class TeacherLists:
    """One list per (user, prefix); a prefix is told by its last item and the item that follows."""

    users: IntArray
    """User numbers, shape (n,)."""
    inputs: IntArray
    """Last item of the prefix, shape (n,)."""
    targets: IntArray
    """The item that follows the prefix in the history, shape (n,)."""
    items: IntArray
    """The teacher's items, best first, shape (n, k); -1 fills the end."""
    distances: FloatArray
    """How far the teacher is from being sure, 0 for its best item, shape (n, k)."""
    train_hash: str = ""
    """`Interactions.content_hash` of the training events that the prefixes come from."""

    def __len__(self) -> int:
        return len(self.users)

    @property
    def n_empty(self) -> int:
        """Prefixes for which the teacher ranked nothing."""
        return int((self.items[:, 0] < 0).sum()) if self.items.size else len(self)

    def usable(self) -> TeacherLists:
        """The lists with at least one item."""
        kept = (self.items >= 0).any(axis=1)
        arrays = {name: getattr(self, name)[kept] for name in _ARRAYS}
        return TeacherLists(**arrays, train_hash=self.train_hash)

    def save(self, path: Path | str) -> None:
        """Write one file (numpy's ``.npz``, nothing pickled).

        Raises:
            StorageError: the disk is full or refuses the write.
        """
        path = Path(path)
        partial = path.with_name(f"{path.name}.partial")
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                np.savez(file, train_hash=np.array(self.train_hash), **{name: getattr(self, name) for name in _ARRAYS})
            os.replace(partial, path)

    @classmethod
    def load(cls, path: Path | str, train: Interactions) -> TeacherLists:
        """Lists as they were saved.

        Raises:
            CacheError: the file is missing or damaged, or belongs to other training events.
        """
        try:
            with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as data:
                found = cls(**{name: data[name] for name in _ARRAYS}, train_hash=str(data["train_hash"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise CacheError(f"{path} holds no teacher's lists ({error}); build them again") from error
        if found.train_hash != train.content_hash:
            raise CacheError(
                f"{path} was built from other training events (hash {found.train_hash}) than these (hash "
                f"{train.content_hash}); build it again"
            )
        return found


_ARRAYS = tuple(field.name for field in fields(TeacherLists) if field.name != "train_hash")


async def build_teacher_lists(
    teacher: Recommender,
    train: Interactions,
    *,
    k: int = 10,
    prefixes_per_user: int = 1,
    temperature: float | None = None,
    batch_size: int = 256,
    seed: int = 0,
) -> TeacherLists:
    """Ask a fitted recommender what follows prefixes of training histories; items of the prefix are left out.

    Args:
        teacher: fitted on the same training events.
        train: training events.
        k: length of a list.
        prefixes_per_user: newest prefixes of each user that have an item behind them in the training events.
        temperature: None gives distances from 0 (best item) to 1 (last of the list), whatever the teacher's scores; a
            number gives score differences to the best item divided by it, for scores that are logits: the confidences
            are then the teacher's own probabilities within the list.
        batch_size: prefixes that are asked about at once.
        seed: of what the teacher draws.

    Raises:
        DataError: no user has two training events.
        ConfigError: a number is not positive.
    """
    for name, number in (("k", k), ("prefixes_per_user", prefixes_per_user), ("batch_size", batch_size)):
        if number < 1:
            raise ConfigError(f"{name} must be at least 1, got {number!r}")
    if temperature is not None and not temperature > 0:
        raise ConfigError(f"temperature must be positive or None, got {temperature!r}")
    users, lengths = _prefixes(train, prefixes_per_user)
    ends = train.offsets[users] + lengths
    prefixes = [train.history(int(user))[:length] for user, length in zip(users, lengths, strict=True)]
    items, distances = [], []
    for start in range(0, len(users), batch_size):
        part = slice(start, start + batch_size)
        asked = [int(user) for user in users[part]]
        scores = await teacher.score(prefixes[part], users=asked, seed=derive(seed, "teacher"))
        masked = masked_scores(scores, prefixes[part])
        top = _filled(top_k_of_masked(masked, k), k)
        items.append(top)
        distances.append(_distances(masked, top, temperature))
    return TeacherLists(
        users=users,
        inputs=train.items[ends - 1],
        targets=train.items[ends],
        items=np.concatenate(items),
        distances=np.concatenate(distances),
        train_hash=train.content_hash,
    )


def _prefixes(train: Interactions, per_user: int) -> tuple[IntArray, IntArray]:
    """User and length of every prefix, each of shape (n,)."""
    possible = np.maximum(train.lengths() - 1, 0)
    wanted = np.minimum(possible, per_user)
    if not wanted.any():
        raise DataError("a teacher needs users with at least two training events, got none; use another split")
    users = np.repeat(np.arange(len(wanted)), wanted)
    number = np.arange(len(users)) - np.repeat(np.cumsum(wanted) - wanted, wanted)  # 0 is the newest
    return users.astype(np.int64), (possible[users] - number).astype(np.int64)


def _filled(top: IntArray, k: int) -> IntArray:
    """Lists of k places: a small catalogue gives shorter ones."""
    return np.pad(top, ((0, 0), (0, k - top.shape[1])), constant_values=-1)


def _distances(masked: FloatArray, top: IntArray, temperature: float | None) -> FloatArray:
    """Distances of listed items, 0 where none is, shape (batch, k)."""
    present = top >= 0
    values = np.take_along_axis(masked, np.maximum(top, 0), axis=1)
    best = np.where(present[:, :1], values[:, :1], 0.0)
    gaps = np.where(present, best - np.where(present, values, 0.0), 0.0)  # (batch, k)
    if temperature is not None:
        return np.asarray(gaps / temperature)
    widest = gaps.max(axis=1, keepdims=True)
    relative: FloatArray = np.divide(gaps, widest, out=np.zeros_like(gaps), where=widest > 0)
    return relative
