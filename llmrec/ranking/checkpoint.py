"""Checkpoints of a training: written whole or not at all, and tied to the data and settings they belong to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llmrec.data.arrow import storage_errors
from llmrec.errors import CacheError
from llmrec.ranking.fit import FitState

if TYPE_CHECKING:
    from llmrec.ranking.transformer import SequenceNetwork

_FILE = "training.pt"


class Checkpoint:
    """The newest state of one training.

    Args:
        folder: made when the first state is written.
        identity: of data and settings; a state with another identity is refused.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.path, self.identity = folder / _FILE, identity

    def save(
        self, network: SequenceNetwork, optimiser: torch.optim.Optimizer, state: FitState, best: dict[str, Tensor]
    ) -> None:
        """Replace the state by this one.

        Raises:
            StorageError: the disk is full or refuses the write; the state before stays.
        """
        content = {
            "identity": self.identity,
            "network": network.state_dict(),
            "optimiser": optimiser.state_dict(),
            "state": state.to_json(),
            "best": best,
        }
        partial = self.path.with_suffix(".partial")
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(content, partial)
            os.replace(partial, self.path)

    def load(
        self, network: SequenceNetwork, optimiser: torch.optim.Optimizer
    ) -> tuple[FitState, dict[str, Tensor]] | None:
        """Put network and optimiser into the stored state; None when nothing is stored.

        Raises:
            CacheError: the file is damaged, or belongs to other data or settings.
        """
        if not self.path.exists():
            return None
        device = next(network.parameters()).device
        try:
            content: dict[str, Any] = torch.load(self.path, map_location=device, weights_only=True)
            identity = content["identity"]
        except Exception as error:  # torch.load raises errors of many kinds for a damaged file
            raise CacheError(
                f"the checkpoint {self.path} is damaged ({type(error).__name__}); delete it and train again"
            ) from error
        if identity != self.identity:
            raise CacheError(
                f"the checkpoint {self.path} belongs to other data or settings (got {identity!r}, this training is "
                f"{self.identity!r}); delete it, or name another folder"
            )
        network.load_state_dict(content["network"])
        optimiser.load_state_dict(content["optimiser"])
        return FitState.from_json(content["state"]), content["best"]
