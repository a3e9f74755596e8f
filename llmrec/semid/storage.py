"""Semantic ids on disk: ``semantic_ids.json`` (settings, readable) and ``semantic_ids.safetensors`` (all arrays).

The JSON holds the checksum of the arrays, and a folder is written under another name and renamed when it is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as dump_arrays

from llmrec.data.arrow import storage_errors
from llmrec.errors import CacheError, LlmrecError
from llmrec.semid.base import EncoderState
from llmrec.semid.codes import SemanticIds
from llmrec.semid.quantiser import restore

if TYPE_CHECKING:
    from llmrec.data.catalogue import Catalogue

FORMAT = 1
"""Raise it when the files change; an artifact of another format is refused."""
SPEC_FILE = "semantic_ids.json"
ARRAYS_FILE = "semantic_ids.safetensors"


def save(ids: SemanticIds, folder: Path) -> None:
    """Write an artifact; one that is there already is replaced.

    Raises:
        StorageError: the disk is full or refuses the write.
        CacheError: the folder holds other things.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise CacheError(f"{str(folder)!r} is a file; name a folder for the semantic ids")
    if folder.exists() and any(folder.iterdir()) and not (folder / SPEC_FILE).exists():
        raise CacheError(f"the folder {str(folder)!r} holds other files than semantic ids; name another folder")
    arrays = dump_arrays(_arrays(ids))
    spec = {**_spec(ids), "arrays_sha256": hashlib.sha256(arrays).hexdigest()}
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with storage_errors(folder):
            (partial / ARRAYS_FILE).write_bytes(arrays)
            (partial / SPEC_FILE).write_text(json.dumps(spec, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            partial.chmod(0o755)  # mkdtemp makes it private
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load(folder: Path, catalogue: Catalogue | None = None) -> SemanticIds:
    """Read an artifact.

    Args:
        folder: where `save` wrote it.
        catalogue: refused where it is not the one that the ids were made for; None skips that check.

    Raises:
        CacheError: there is no artifact, it is damaged, of another format, or made for another catalogue.
    """
    folder = Path(folder)
    if not (folder / SPEC_FILE).is_file():
        raise CacheError(f"no semantic ids in {str(folder)!r} ({SPEC_FILE} is missing); build them first")
    try:
        spec = json.loads((folder / SPEC_FILE).read_text(encoding="utf-8"))
        if spec["format"] != FORMAT:
            raise CacheError(
                f"the semantic ids in {str(folder)!r} have format {spec['format']!r}, this version reads {FORMAT}; "
                "build them anew"
            )
        content = (folder / ARRAYS_FILE).read_bytes()
        if hashlib.sha256(content).hexdigest() != spec["arrays_sha256"]:
            raise damaged(folder, f"{ARRAYS_FILE} has another checksum")
        ids = _assemble(spec, load_arrays(content))
    except CacheError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError, LlmrecError) as error:
        raise damaged(folder, str(error) or type(error).__name__) from error
    if catalogue is not None:
        ids.check(catalogue)
    return ids


def damaged(folder: Path, why: str) -> CacheError:
    """The error for an artifact that cannot be used, with the remedy."""
    return CacheError(
        f"the semantic ids in {str(folder)!r} are damaged ({why}); delete that folder and build them anew"
    )


def _spec(ids: SemanticIds) -> dict[str, Any]:
    encoder = None if ids.encoder is None else {"spec": ids.encoder.spec, "settings": dict(ids.encoder.settings)}
    return {
        "format": FORMAT,
        "n_items": len(ids),
        "sizes": list(ids.sizes),
        "fingerprint": ids.fingerprint,
        "catalogue_hash": ids.catalogue_hash,
        "encoder": encoder,
        "quantiser": None if ids.quantiser is None else ids.quantiser.spec(),
        "facts": dict(ids.facts),
    }


def _arrays(ids: SemanticIds) -> dict[str, npt.NDArray[Any]]:
    """All arrays, named by the part that they belong to."""
    arrays: dict[str, npt.NDArray[Any]] = {"codes": ids.codes}
    if ids.quantiser is not None:
        arrays |= {f"quantiser.{name}": values for name, values in ids.quantiser.arrays().items()}
    if ids.encoder is not None:
        arrays |= {f"encoder.{name}": values for name, values in ids.encoder.arrays.items()}
    return {name: np.ascontiguousarray(values) for name, values in arrays.items()}


def _assemble(spec: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> SemanticIds:
    encoder = spec["encoder"]
    return SemanticIds(
        codes=arrays["codes"],
        sizes=tuple(spec["sizes"]),
        catalogue_hash=spec["catalogue_hash"],
        quantiser=None if spec["quantiser"] is None else restore(spec["quantiser"], _part(arrays, "quantiser")),
        encoder=encoder and EncoderState(encoder["spec"], encoder["settings"], _part(arrays, "encoder")),
        facts=spec["facts"],
    )


def _part(arrays: dict[str, npt.NDArray[Any]], name: str) -> dict[str, npt.NDArray[Any]]:
    prefix = f"{name}."
    return {key.removeprefix(prefix): values for key, values in arrays.items() if key.startswith(prefix)}
