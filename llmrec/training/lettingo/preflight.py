"""What can be known before half an hour of training: that every writer and the predictor can be loaded and asked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from llmrec.errors import ConfigError
from llmrec.lm.adapters import check_adapter, content_hash
from llmrec.lm.loading import checked_adapters, load_backbone, model_of
from llmrec.lm.pretrained import check_spec
from llmrec.training.backbone import check_four_bits
from llmrec.training.lettingo.engines import inside_name
from llmrec.training.lettingo.stages import PREDICTOR, writer_name
from llmrec.training.recipe import ADAPTER_NAME
from llmrec.training.trainer_settings import batch_share

if TYPE_CHECKING:
    from llmrec.lm.hardware import Hardware
    from llmrec.training.lettingo.explore import WriterSettings
    from llmrec.training.lettingo.prompts import ProfilePrompts
    from llmrec.training.lettingo.recipe import LettingoRecipe, PredictorSettings
    from llmrec.training.lettingo.windows import Window

_SERVED = ("endpoint", "scripted")
"""Kinds of engine that are opened at once and load no adapter."""


class _Base(NamedTuple):
    """What an adapter must suit."""

    model: str
    """Folder, hub id, or the spec of an engine that loads none."""
    digest: str | None
    """Content hash of the folder; None without one."""
    adapters: tuple[str, ...]
    """Names of those that it has already."""
    kind: str = ""
    """One of `_SERVED`; empty for an engine that loads adapter folders."""


def check_settings(recipe: LettingoRecipe, prompts: ProfilePrompts, example: Window, hardware: Hardware) -> None:
    """Everything that would otherwise fail after the start adapters were trained, or after the exploration.

    Args:
        recipe: names backbones, adapters and prompts.
        prompts: of the dataset.
        example: any window.
        hardware: of the training.

    Raises:
        ConfigError: an adapter is not there under its name or belongs to another backbone, a prompt is missing or
            cannot be rendered, the predictor's engine cannot score, or a batch or four bits do not suit the machine.
        ModelNotFoundError: a backbone or an adapter's files are missing.
        ServerDownError: no server answers at an endpoint.
    """
    batch_share(recipe.batch_size)
    if recipe.quantise != "none":
        check_four_bits(hardware)
    check_prompts(recipe, prompts, example)
    check_players(recipe)


def check_prompts(recipe: LettingoRecipe, prompts: ProfilePrompts, example: Window) -> None:
    """Render every writer's prompt once.

    Raises:
        ConfigError: there is no such prompt, or it wants other variables.
    """
    for writer in recipe.writers:
        try:
            prompts.write(example.older, style=writer.style, template=writer.prompt)
        except ConfigError as error:
            raise ConfigError(f"prompt of the writer {writer.name!r}: {error}") from error


def check_players(recipe: LettingoRecipe) -> None:
    """Look at the backbones of writers and predictor and at their adapters; nothing is loaded but endpoints.

    Raises:
        ConfigError, ModelNotFoundError, ServerDownError: see `check_settings`.
    """
    players: dict[str, WriterSettings | PredictorSettings] = {writer_name(one): one for one in recipe.writers}
    players[PREDICTOR] = recipe.predictor
    specs = dict.fromkeys([recipe.backbone, *(player.backbone or recipe.backbone for player in players.values())])
    bases = {spec: _base(spec, scores=spec == (recipe.predictor.backbone or recipe.backbone)) for spec in specs}
    seen: set[tuple[str, str]] = set()
    for name, player in players.items():
        spec, adapter = player.backbone or recipe.backbone, player.adapter
        if adapter is None or (spec, adapter) in seen:  # loaded once, under the name of the first one
            continue
        seen.add((spec, adapter))
        if adapter == "start":
            _check_start(name, bases[spec], bases[recipe.backbone])
        else:
            _check_named(name, adapter, bases[spec])


def _base(spec: str, *, scores: bool) -> _Base:
    kind, colon, _ = spec.partition(":")
    if colon and (kind in _SERVED or (kind != "vllm" and not Path(spec).exists())):  # an unknown kind is refused
        can = load_backbone(spec).capabilities
        if scores and "score" not in can.verbs:
            raise ConfigError(
                f"the predictor must score labels, and this engine cannot, got {spec!r}; set predictor.backbone to a "
                "folder or a server that gives log-probabilities of prompts"
            )
        return _Base(spec, None, tuple(can.adapters), kind)
    model = model_of(spec)
    check_spec(model)
    folder = Path(model).expanduser()
    digest = content_hash(folder) if folder.is_dir() else None
    return _Base(model, digest, tuple(checked_adapters(spec)))  # all of adapters.json are loaded, asked for or not


def _check_start(name: str, base: _Base, trained: _Base) -> None:
    """The start adapter is for the recipe's own backbone.

    Raises:
        ConfigError: this is another one, or the player's name cannot be that of an adapter.
    """
    same = base.digest == trained.digest if base.digest and trained.digest else base.model == trained.model
    if base.kind != "scripted" and not same:
        raise ConfigError(
            f"{name}: the adapter 'start' is trained on the recipe's backbone {trained.model!r}, got the backbone "
            f"{base.model!r}; leave its backbone out, or name an adapter that was made for it"
        )
    if not re.fullmatch(ADAPTER_NAME, inside_name(name)):
        raise ConfigError(
            f"the name of a writer with an adapter is letters, digits, '-' and '_', at most 49, got {name!r}; rename it"
        )


def _check_named(name: str, adapter: str, base: _Base) -> None:
    """An adapter folder, or a name that the engine knows.

    Raises:
        ConfigError: it is neither, or was made for another backbone.
        ModelNotFoundError: the folder holds no adapter.
    """
    if Path(adapter).is_dir() and base.kind != "endpoint":
        check_adapter(inside_name(name), Path(adapter), base_content_hash=base.digest)
    elif adapter not in base.adapters:
        known = ", ".join(base.adapters) or "none"
        remedy = "name one that it has" if base.kind else "name an adapter folder, one that it has, or start"
        raise ConfigError(
            f"{name}: there is no such adapter, got {adapter!r}; adapters of {base.model!r}: {known}; {remedy}"
        )
