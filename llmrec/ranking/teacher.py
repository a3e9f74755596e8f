"""What a teacher recommends behind prefixes of training histories: asked once, kept in a file."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt

from llmrec.data.arrow import storage_errors
from llmrec.errors import CacheError, DataError
from llmrec.metrics.ranking import masked_scores, top_k_of_masked
from llmrec.retrieval.base import FloatArray, IntArray
from llmrec.seeding import derive

if TYPE_CHECKING:
    from llmrec.data.interactions import Interactions
    from llmrec.retrieval.base import Recommender


class TeacherConfig(BaseModel):
    """What a teacher is asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    k: PositiveInt = 10
    """Length of a list."""
    prefixes_per_user: PositiveInt = 1
    """Newest prefixes of each user that have an item behind them in the training events."""
    temperature: PositiveFloat | None = None
    """None gives distances from 0 (best item) to 1 (last of the list), whatever the teacher's scores; a number gives
    score differences to the best item divided by it, for scores that are logits: the confidences are then the teacher's
    own probabilities within the list."""
    batch_size: PositiveInt = 64
    """Prefixes that are asked about at once; a killed collection goes on behind the last whole batch."""


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
    config: TeacherConfig | None = None,
    seed: int = 0,
    kept: Path | None = None,
    identity: str = "",
    report: Callable[[int], None] | None = None,
) -> TeacherLists:
    """Ask a fitted recommender what follows prefixes of training histories; items of the prefix are left out.

    Args:
        teacher: fitted on the same training events.
        train: training events.
        config: how many prefixes, how long the lists.
        seed: of what the teacher draws.
        kept: folder in which the answers are kept batch by batch; the same call goes on from there after a kill.
        identity: tells one teacher from another of the same name, such as a content hash of its weights.
        report: called after every batch with its number of prefixes.

    Raises:
        DataError: no user has two training events.
        CacheError: kept answers are damaged.
        StorageError: the disk is full or refuses the write.
    """
    config = config or TeacherConfig()
    users, lengths = _prefixes(train, config.prefixes_per_user)
    facts = (teacher.name, identity, config.model_dump_json(), str(seed), train.content_hash)
    folder = None if kept is None else kept / hashlib.sha256("\x1e".join(facts).encode()).hexdigest()[:16]
    batches = []
    for start in range(0, len(users), config.batch_size):
        part = slice(start, start + config.batch_size)
        file = None if folder is None else folder / f"{start:08d}.npz"
        if file is not None and file.is_file():
            batches.append(TeacherLists.load(file, train))
        else:
            batches.append(await _asked(teacher, train, users[part], lengths[part], config, seed))
            if file is not None:
                batches[-1].save(file)
        if report is not None:
            report(len(batches[-1]))
    arrays = {name: np.concatenate([getattr(batch, name) for batch in batches]) for name in _ARRAYS}
    return TeacherLists(**arrays, train_hash=train.content_hash)


def n_prefixes(train: Interactions, config: TeacherConfig) -> int:
    """How many prefixes `build_teacher_lists` asks about.

    Raises:
        DataError: no user has two training events.
    """
    return len(_prefixes(train, config.prefixes_per_user)[0])


async def _asked(
    teacher: Recommender,
    train: Interactions,
    users: IntArray,
    lengths: IntArray,
    config: TeacherConfig,
    seed: int,
) -> TeacherLists:
    """The lists of one batch of prefixes."""
    ends = train.offsets[users] + lengths
    prefixes = [train.history(int(user))[:length] for user, length in zip(users, lengths, strict=True)]
    scores = await teacher.score(prefixes, users=[int(user) for user in users], seed=derive(seed, "teacher"))
    masked = masked_scores(scores, prefixes)
    top = _filled(top_k_of_masked(masked, config.k), config.k)
    return TeacherLists(
        users=users,
        inputs=train.items[ends - 1],
        targets=train.items[ends],
        items=top,
        distances=_distances(masked, top, config.temperature),
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
