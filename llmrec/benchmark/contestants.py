"""Language models that are compared with each other, named on a command line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from llmrec.errors import ConfigError
from llmrec.lm.loading import load_backbone
from llmrec.lm.protocol import LanguageModel

_FORM = re.compile(r"(?P<name>[^=]+)=(?P<backbone>.+?)(?:@(?P<adapter>\w+)(?:=(?P<folder>.+))?)?")


@dataclass(frozen=True)
class Contestant:
    """A model in a comparison."""

    name: str
    """In the table."""
    backbone: str
    adapter: str | None = None
    folder: Path | None = None
    """Of the adapter, where the backbone's folder does not name it."""

    @classmethod
    def parse(cls, text: str) -> Contestant:
        """Read NAME=BACKBONE, NAME=BACKBONE@ADAPTER or NAME=BACKBONE@ADAPTER=FOLDER.

        Raises:
            ConfigError: it has another form.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise ConfigError(f"a model is named NAME=BACKBONE or NAME=BACKBONE@ADAPTER=FOLDER, got {text!r}")
        folder = match["folder"]
        return cls(match["name"], match["backbone"], match["adapter"], Path(folder) if folder else None)

    def load(self, *, seed: int) -> LanguageModel:
        """The engine, with the adapter loaded."""
        adapters = {self.adapter: self.folder} if self.adapter and self.folder else None
        return load_backbone(self.backbone, adapters=adapters, seed=seed)
