"""Which LoRA adapter plays which role, and for which backbone each was made.

`adapters.json` beside a backbone maps a role to an adapter folder. Each adapter folder carries `backbone.json` with the
content hash of the backbone it was trained on: an adapter on another backbone loads without complaint and answers
nonsense.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from llmrec.errors import ConfigError, ModelNotFoundError, StorageError

STORE_FILE = "adapters.json"
STAMP_FILE = "backbone.json"
ADAPTER_FILE = "adapter_config.json"
"""What makes a folder one of a LoRA adapter (PEFT writes it)."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_HASHED = ("config.json", "tokenizer.json", "*.safetensors", "*.bin", "*.gguf")
_CHUNK = 1 << 20
_WHOLE = 256 * _CHUNK  # larger files are hashed by samples: their size and 64 evenly spaced chunks


def content_hash(folder: Path) -> str:
    """Hash of everything in a model folder that changes what it answers: weights, shape and tokenizer.

    Files above 256 MiB are sampled (size and 64 chunks of 1 MiB), so that a large backbone is checked in a second.

    Raises:
        ModelNotFoundError: there is no such folder, or it holds no model.
    """
    if not folder.is_dir():
        raise ModelNotFoundError(f"no model folder, got {str(folder)!r}")
    digest = hashlib.sha256()
    files = sorted({file for pattern in _HASHED for file in folder.glob(pattern)})
    if not files:
        raise ModelNotFoundError(f"the folder holds no model (no config.json or weights), got {str(folder)!r}")
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name}\x1f{size}\x1f".encode())
        step = _CHUNK if size <= _WHOLE else size // 64
        with file.open("rb") as stream:
            for start in range(0, size, step):
                stream.seek(start)
                digest.update(stream.read(_CHUNK))
    return digest.hexdigest()


def stamp(folder: Path, backbone: Path) -> None:
    """Record in an adapter folder which backbone it was trained on. Call it after `save_pretrained`."""
    _write(folder / STAMP_FILE, {"base_content_hash": content_hash(backbone)})


def check_adapter(name: str, folder: Path, *, base_content_hash: str | None) -> None:
    """Check that a folder holds a LoRA adapter for this backbone.

    Args:
        name: the adapter's name, for messages.
        folder: the adapter's folder.
        base_content_hash: hash of the backbone; None skips this check (a hub model without a folder).

    Raises:
        ModelNotFoundError: the folder or its files are missing.
        ConfigError: it was made for another backbone, or is no LoRA-like adapter.
    """
    if not folder.is_dir():
        raise ModelNotFoundError(f"no folder for adapter {name!r}, got {str(folder)!r}")
    if not (folder / ADAPTER_FILE).exists():
        raise ModelNotFoundError(f"adapter {name!r} has no {ADAPTER_FILE} in {str(folder)!r}")
    if not any((folder / file).exists() for file in ("adapter_model.safetensors", "adapter_model.bin")):
        raise ModelNotFoundError(f"adapter {name!r} has no weights (adapter_model.safetensors) in {str(folder)!r}")
    if not _NAME.fullmatch(name):
        raise ConfigError(f"an adapter's name is letters, digits, '-' and '_', got {name!r}")
    made_for = read_stamp(folder)
    if made_for and base_content_hash and made_for != base_content_hash:
        raise ConfigError(
            f"adapter {name!r} in {str(folder)!r} was trained on another backbone "
            f"({made_for[:12]}, this one is {base_content_hash[:12]}); train it again or load its own backbone"
        )


def read_stamp(folder: Path) -> str | None:
    """Content hash of the backbone an adapter was trained on, or None when the folder does not say."""
    path = folder / STAMP_FILE
    if not path.exists():
        return None
    value = _read(path).get("base_content_hash")
    if not isinstance(value, str):
        raise ConfigError(f"{str(path)!r} has no base_content_hash; delete it or train the adapter again")
    return value


class AdapterStore:
    """The roles of one backbone and their adapter folders.

    Args:
        backbone: the backbone's folder; `adapters.json` stands in it.
    """

    def __init__(self, backbone: Path) -> None:
        self.backbone = Path(backbone)
        self.base_content_hash = content_hash(self.backbone)
        self._folders: dict[str, Path] = {}

    @classmethod
    def load(cls, backbone: Path) -> AdapterStore:
        """Read `adapters.json`; a backbone without one has no adapters.

        Raises:
            ConfigError: the file is damaged.
        """
        store = cls(backbone)
        path = store.backbone / STORE_FILE
        if path.exists():
            entries = _read(path).get("adapters")
            if not isinstance(entries, dict) or not all(isinstance(folder, str) for folder in entries.values()):
                raise ConfigError(f"{str(path)!r} must map roles to folders under 'adapters'; delete it to start anew")
            store._folders = {role: (store.backbone / folder).resolve() for role, folder in entries.items()}
        return store

    def __iter__(self) -> Iterator[str]:
        return iter(self._folders)

    def __len__(self) -> int:
        return len(self._folders)

    def folders(self) -> Mapping[str, Path]:
        """Role -> folder, in the order in which roles were added."""
        return dict(self._folders)

    def check(self, *, but: Container[str] = ()) -> None:
        """Check every adapter against the backbone (see `check_adapter`).

        Args:
            but: roles that are not wanted from here.

        Raises:
            ModelNotFoundError: a folder that `adapters.json` names, or one of its files, is gone.
            ConfigError: an adapter was made for another backbone, or is no LoRA-like adapter.
        """
        for role, folder in self._folders.items():
            if role in but:
                continue
            try:
                check_adapter(role, folder, base_content_hash=self.base_content_hash)
            except ModelNotFoundError as error:
                raise ModelNotFoundError(
                    f"{error}, as {str(self.backbone / STORE_FILE)!r} names it; train it again (llmrec finetune), or "
                    f"take the entry {role!r} out of that file"
                ) from error

    def add(self, role: str, folder: Path) -> None:
        """Map a role to an adapter that was just trained on this backbone, and stamp its folder."""
        check_adapter(role, folder, base_content_hash=self.base_content_hash)
        _write(folder / STAMP_FILE, {"base_content_hash": self.base_content_hash})
        self._folders[role] = folder.resolve()

    def remove(self, role: str) -> None:
        """Forget a role; its folder stays."""
        if role not in self._folders:
            raise ConfigError(f"no adapter for role, got {role!r}; there are {', '.join(self._folders) or 'none'}")
        del self._folders[role]

    def save(self) -> None:
        """Write `adapters.json`. Folders are stored relative to the backbone, so both can move together."""
        root = self.backbone.resolve()
        entries = {role: Path(os.path.relpath(folder, root)).as_posix() for role, folder in self._folders.items()}
        _write(self.backbone / STORE_FILE, {"base_content_hash": self.base_content_hash, "adapters": entries})


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{str(path)!r} must hold one JSON object, got {type(value).__name__}")
    return value


def _write(path: Path, value: Mapping[str, Any]) -> None:
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)  # a reader never sees half a file
    except OSError as error:
        raise StorageError(f"{str(path)!r} cannot be written: {error.strerror or error}") from error
