"""Several players over as few engines as possible: a backbone is loaded once, with the adapters of all who share it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from llmrec.lm.adapters import content_hash
from llmrec.lm.loading import load_backbone
from llmrec.lm.protocol import LanguageModel


class Player(NamedTuple):
    """Who is wanted."""

    backbone: str
    """Backbone spec."""
    adapter: str | None = None
    """LoRA folder, or the name of an adapter that the engine has already; None is the bare backbone."""


class Engine(NamedTuple):
    """A player that is ready."""

    lm: LanguageModel
    adapter: str | None
    """Its name inside `lm`."""
    identity: str
    """Stands for backbone and adapter weights, whatever else the engine has loaded: the key of what it answered."""


def inside_name(player: str) -> str:
    """Under which name an engine loads the adapter folder of a player."""
    return f"profile-{player}"


def open_engines(players: Mapping[str, Player], *, seed: int = 0) -> dict[str, Engine]:
    """Load what the players need.

    Args:
        players: by name; an adapter folder is loaded under the name of its first player.
        seed: for engines that take one when they start.

    Raises:
        ModelNotFoundError: a model or adapter is missing.
        ConfigError: an adapter belongs to another backbone.
    """
    ready: dict[str, Engine] = {}
    for spec in dict.fromkeys(player.backbone for player in players.values()):
        own = {name: player for name, player in players.items() if player.backbone == spec}
        names: dict[str, str] = {}  # adapter folder -> name inside the engine
        for name, player in own.items():
            if player.adapter is not None and Path(player.adapter).is_dir():
                names.setdefault(player.adapter, inside_name(name))
        lm = load_backbone(spec, adapters={name: Path(folder) for folder, name in names.items()}, seed=seed)
        base = content_hash(Path(spec)) if Path(spec).is_dir() else lm.name
        for name, player in own.items():
            folder = player.adapter if player.adapter in names else None
            weights = content_hash(Path(folder)) if folder is not None else player.adapter or ""
            inside = names[folder] if folder is not None else player.adapter
            ready[name] = Engine(lm, inside, f"{base}+{weights}")
    return ready
