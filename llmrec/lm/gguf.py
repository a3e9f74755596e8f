"""GGUF files, as llama.cpp's tools write them, turned into ordinary Hugging Face folders.

The quantised weights become bf16 numbers: what the quantisation lost stays lost, and everything that works with a hub
model (LoRA, merging, transformers and peft alone) works with the folder.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from llmrec.errors import ConfigError, MissingDependencyError, ModelNotFoundError, StorageError
from llmrec.lm.pretrained import check_complete, check_free, first_line, quiet

MAGIC = b"GGUF"
RECORD = "import.json"
"""What was imported: in the folder, beside the weights."""
_BYTES_PER_WEIGHT = 2  # bf16


@dataclass(frozen=True)
class GgufFacts:
    """What a GGUF file says about itself."""

    architecture: str
    name: str
    parameters: int
    context: int | None
    licence: str | None
    """As its author wrote it; None when the file does not say."""
    sha256: str
    head_dim: int | None = None
    """Width of an attention head; None where it follows from the others."""


def read_facts(file: Path, *, expected_sha256: str | None = None) -> GgufFacts:
    """Check a GGUF file and read its header.

    Args:
        expected_sha256: checksum that the whole file must have.

    Raises:
        ModelNotFoundError: it is missing, cut short, damaged or no GGUF file, or its checksum is another one.
        MissingDependencyError: the extra `gguf` is not installed.
    """
    _check_start(file)
    reader_class = _reader_class()
    try:
        reader = reader_class(str(file))
        fields = {key: field.contents() for key, field in reader.fields.items() if len(field.data) == 1}
        end = max((int(t.data_offset) + int(t.n_bytes) for t in reader.tensors), default=0)
        parameters = sum(int(t.n_elements) for t in reader.tensors)
    except (ValueError, IndexError, KeyError, OSError, TypeError, struct.error) as error:
        raise ModelNotFoundError(
            f"the GGUF file is cut short or damaged, got {str(file)!r} of {file.stat().st_size:,} bytes "
            f"({first_line(error)}); fetch it again"
        ) from error
    if end > file.stat().st_size:
        raise ModelNotFoundError(
            f"the GGUF file is cut short: its weights end at byte {end:,}, got {str(file)!r} of "
            f"{file.stat().st_size:,} bytes; fetch it again"
        )
    digest = file_sha256(file)
    if expected_sha256 is not None and digest != expected_sha256.lower():
        raise ModelNotFoundError(
            f"the file is not the one that was announced: its sha256 must be {expected_sha256}, got {digest} for "
            f"{str(file)!r}; fetch it again"
        )
    architecture = str(fields.get("general.architecture", ""))
    context = fields.get(f"{architecture}.context_length")
    head_dim = fields.get(f"{architecture}.attention.key_length")
    licence = fields.get("general.license")
    return GgufFacts(
        architecture=architecture,
        name=str(fields.get("general.name") or file.stem),
        parameters=parameters,
        context=None if context is None else int(context),
        licence=None if licence is None else str(licence),
        sha256=digest,
        head_dim=None if head_dim is None else int(head_dim),
    )


def _check_start(file: Path) -> None:
    if not file.is_file():
        raise ModelNotFoundError(f"there is no GGUF file, got {str(file)!r}")
    try:
        with file.open("rb") as stream:
            start = stream.read(4)
    except OSError as error:
        raise ModelNotFoundError(f"the GGUF file {str(file)!r} cannot be read: {error.strerror}") from error
    if start != MAGIC:
        raise ModelNotFoundError(f"not a GGUF file: it must begin with {MAGIC!r}, got {start!r} in {str(file)!r}")


def _reader_class() -> Any:
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise MissingDependencyError("gguf", needed_for="reading a GGUF file", extra="gguf") from error
    return GGUFReader


def file_sha256(file: Path) -> str:
    """Checksum of a whole file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def import_gguf(
    file: Path,
    out: Path,
    *,
    expected_sha256: str | None = None,
    licence_files: Sequence[Path] = (),
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Write a GGUF file as a Hugging Face folder: bf16 safetensors, tokenizer, and `import.json`.

    The folder appears whole or not at all.

    Args:
        file: the GGUF file.
        out: folder to make.
        expected_sha256: checksum that the file must have.
        licence_files: copied beside the weights.
        say: told of each step; the tokenizer takes minutes.

    Returns:
        What stands in `import.json`.

    Raises:
        ModelNotFoundError: the file is missing, damaged or not the one announced.
        ConfigError: transformers cannot read this architecture, or `out` exists.
        StorageError: the disk is full or not writable.
    """
    check_free(out)
    facts = read_facts(file, expected_sha256=expected_sha256)
    _check_architecture(facts.architecture, file)
    _check_room(out, facts.parameters * _BYTES_PER_WEIGHT)
    partial = out.with_name(out.name + ".partial")
    started = time.monotonic()
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        model, tokenizer = _load(file, facts, say)
        say("writing the folder")
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        for licence in licence_files:
            shutil.copyfile(licence, partial / licence.name)
        record = {
            "source": file.name,
            "sha256": facts.sha256,
            "architecture": facts.architecture,
            "name": facts.name,
            "licence": facts.licence,
            "licence_files": [licence.name for licence in licence_files],
            "parameters": sum(p.numel() for p in model.parameters()),
            "seconds": round(time.monotonic() - started, 1),
        }
        (partial / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        partial.rename(out)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{str(out)!r} cannot be written: {first_line(error)}; free some space") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return record


def _check_architecture(architecture: str, file: Path) -> None:
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    known = sorted(set(GGUF_SUPPORTED_ARCHITECTURES) - {"general", "tokenizer"})
    if architecture not in known:
        raise ConfigError(
            f"transformers cannot read GGUF files of the architecture {architecture!r}, got {str(file)!r}; it reads "
            f"{', '.join(known)}. Serve the file instead: llmrec models serve {file.name}"
        )


def _check_room(out: Path, needed: int) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(out.parent).free
    except OSError as error:
        raise StorageError(f"{str(out.parent)!r} cannot be written: {error.strerror}") from error
    if free < needed * 1.1:
        raise StorageError(
            f"the folder will take {needed / 2**20:,.0f} MiB and {free / 2**20:,.0f} MiB are free at "
            f"{str(out.parent)!r}; free some space or name another place with --out"
        )


def _load(file: Path, facts: GgufFacts, say: Callable[[str], None]) -> tuple[Any, Any]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where: dict[str, Any] = {"gguf_file": file.name}
    try:
        with quiet():
            say("reading the tokenizer (minutes, for a large vocabulary)")
            tokenizer = AutoTokenizer.from_pretrained(str(file.parent), **where)
            say("reading the weights")
            config = AutoConfig.from_pretrained(str(file.parent), **where)
            if facts.head_dim is not None:  # transformers takes the architecture's usual one
                config.get_text_config().head_dim = facts.head_dim
            model, info = AutoModelForCausalLM.from_pretrained(
                str(file.parent),
                config=config,
                dtype=torch.bfloat16,
                quantization_config=GgufConfig(dequantize=True),
                output_loading_info=True,
                **where,
            )
    except (ValueError, KeyError, RuntimeError, ImportError, OSError, NotImplementedError) as error:
        raise ModelNotFoundError(f"transformers cannot read {str(file)!r}: {first_line(error)}") from error
    check_complete(info, f"the GGUF file {str(file)!r}")
    # The weights are plain numbers now; the mark of their origin would forbid saving them.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model, tokenizer
