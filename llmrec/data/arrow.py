"""Arrow tables on disk: written once, opened memory-mapped through `datasets`.

A table is one IPC stream file. Columns that must be seen as one numpy array (interactions) are written as a single
record batch, so that opening them copies nothing.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from llmrec.errors import StorageError

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

_STORAGE_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG}


class ArrowStrings(Sequence[str]):
    """A read-only sequence of strings over a memory-mapped Arrow column; an element is copied when it is asked for."""

    def __init__(self, column: Any) -> None:
        self._column = column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                return [self[i] for i in range(start, stop, step)]
            return [str(value) for value in self._column.slice(start, max(0, stop - start)).to_pylist()]
        position = int(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"index out of range, got {index} for a sequence of {len(self)}")
        return str(self._column[position % len(self)].as_py())

    def __iter__(self) -> Iterator[str]:
        for chunk in self._column.chunks:
            yield from (str(value) for value in chunk.to_pylist())

    def __repr__(self) -> str:
        return f"ArrowStrings(n={len(self)})"

    @property
    def column(self) -> Any:
        """The Arrow column itself, for vectorised work."""
        return self._column


class StringIndex:
    """Finds the position of a string in an Arrow column by binary search: 8 bytes an element, no dictionary of strings.

    Args:
        column: strings without nulls. Where a string occurs twice, the first position is found.
    """

    def __init__(self, column: Any) -> None:
        combined = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        self._column = combined.chunk(0) if isinstance(combined, pa.ChunkedArray) else combined
        self._order = pc.array_sort_indices(self._column).to_numpy()

    def find(self, value: str) -> int | None:
        """Position of the value, or None."""
        low, high = 0, len(self._order)
        wanted = value.encode()  # Arrow sorts by UTF-8 bytes, which is not Python's order of str beyond the BMP
        while low < high:
            middle = (low + high) // 2
            if str(self._column[int(self._order[middle])].as_py()).encode() < wanted:
                low = middle + 1
            else:
                high = middle
        if low == len(self._order):
            return None
        position = int(self._order[low])
        return position if self._column[position].as_py() == value else None


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a refused write under `path` into `StorageError`."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        if full:
            message = f"the disk is full while writing {path}; free some space or set LLMREC_CACHE to another disk"
            raise StorageError(message) from error
        if error.errno in _STORAGE_ERRNOS:
            message = f"cannot write {path}: {error.strerror}; check permissions or set LLMREC_CACHE"
            raise StorageError(message) from error
        raise


def write_table(table: Any, path: Path) -> None:
    """Write a table as one Arrow stream file with a single record batch.

    Raises:
        StorageError: the disk is full or refuses the write.
    """
    with storage_errors(path), path.open("wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        single = table.combine_chunks()
        for batch in single.to_batches():
            writer.write_batch(batch)


def open_table(path: Path) -> Any:
    """Open a file of `write_table` memory-mapped, as `datasets.Dataset`; takes constant memory whatever its length."""
    import datasets

    return datasets.Dataset.from_file(str(path))


def as_table(table: Any) -> Any:
    """The `pyarrow.Table` of a `datasets.Dataset`, or the table itself."""
    if isinstance(table, pa.Table):
        return table
    return table.data.table  # datasets wraps the memory-mapped table


def numpy_column(table: Any, name: str) -> npt.NDArray[Any]:
    """A numeric column as one numpy array: a view of the mapped file when the column has one chunk without nulls."""
    column = as_table(table).column(name)
    if column.num_chunks == 0:
        return np.empty(0, dtype=column.type.to_pandas_dtype())
    chunk = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    view: npt.NDArray[Any] = chunk.to_numpy(zero_copy_only=isinstance(chunk, pa.Array) and chunk.null_count == 0)
    return view
