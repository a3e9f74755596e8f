"""The weights of a saved recommender: one safetensors file beside what `llmrec.ranking.saved` writes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llmrec.data.arrow import storage_errors
from llmrec.errors import CacheError
from llmrec.ranking.saved import SPEC

WEIGHTS = "weights.safetensors"


def write_weights(
    folder: Path, tensors: Mapping[str, Tensor], *, file: str = WEIGHTS, facts: Mapping[str, str] | None = None
) -> None:
    """Write tensors; a description in the folder goes first, so that old words never stand beside new weights.

    Args:
        folder: made where it is missing.
        tensors: by name; none shares memory with another.
        file: name of the file.
        facts: kept in the header of the file.

    Raises:
        StorageError: the disk is full or refuses the write.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SPEC).unlink(missing_ok=True)
        partial = folder / f"{file}.partial"
        try:
            save_file(dict(tensors), partial, metadata=None if facts is None else dict(facts))
        except SafetensorError as error:  # it wraps the operating system's error
            raise OSError(str(error)) from error
        os.replace(partial, folder / file)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """What `write_weights` wrote.

    Raises:
        CacheError: the file is missing or damaged.
    """
    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise CacheError(f"{folder / WEIGHTS} cannot be read ({error}); save the recommender again") from error
