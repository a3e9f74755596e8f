"""Recommenders that ask a language model, as commands build them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrec.cli.common import note

if TYPE_CHECKING:
    from llmrec.lm.protocol import LanguageModel
    from llmrec.retrieval.base import Recommender

_ROLE = "recommender"
_BY_ID = "semantic-lm"


def open_recommender_lm(backbone: str, adapter: Path | None, *, seed: int, device: str) -> LanguageModel:
    """The backbone with the adapter of the recommender role.

    Args:
        backbone: folder, hub id, or another spec of `load_backbone`.
        adapter: LoRA folder; None takes the one that the backbone's folder names, if any.
        seed: for engines that take one when they start.
        device: "auto", "cpu" or "cuda".
    """
    from llmrec.lm.loading import load_backbone

    return load_backbone(backbone, adapters={} if adapter is None else {_ROLE: adapter}, seed=seed, device=device)


def asking_recommenders(
    names: Sequence[str], lm: LanguageModel, *, sampling: Mapping[str, Any] | None = None
) -> dict[str, Recommender]:
    """Recommenders over one language model, by name, unfitted.

    Args:
        names: of the registry.
        lm: see `open_recommender_lm`.
        sampling: settings of calrec.
    """
    from llmrec.ranking.registry import build
    from llmrec.retrieval.calrec import CalrecConfig

    tuned = _ROLE in lm.capabilities.adapters
    texts = [name for name in names if name != _BY_ID]  # an id generator brings an adapter of its own
    if texts and not tuned:
        note(
            f"{', '.join(texts)}: the bare backbone is asked, which has no recommender adapter; name a LoRA folder "
            "with --adapter"
        )
    options: dict[str, dict[str, Any]] = {name: {"adapter": _ROLE if tuned else None} for name in texts}
    if "calrec" in options:
        options["calrec"]["config"] = CalrecConfig(**(sampling or {}))
    return {name: build(name, lm=lm, **options.get(name, {})) for name in names}
