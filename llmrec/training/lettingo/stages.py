"""LettinGo's first two stages over one recipe: who plays, what they write, what the predictor makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmrec.errors import ConfigError
from llmrec.training.lettingo.call_log import CallLog
from llmrec.training.lettingo.engines import Engine, Player, open_engines
from llmrec.training.lettingo.evaluate import Case, Predictor, Verdict
from llmrec.training.lettingo.explore import Candidate, Writer, explore
from llmrec.training.lettingo.pairs import Pair, PairFacts, pair_facts, preference_pairs
from llmrec.training.lettingo.prompts import ProfilePrompts

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset
    from llmrec.training.lettingo.explore import WriterSettings
    from llmrec.training.lettingo.recipe import LettingoRecipe
    from llmrec.training.lettingo.start import Role
    from llmrec.training.lettingo.windows import Window

PROFILES, VERDICTS = "profiles.jsonl", "verdicts.jsonl"
PREDICTOR = "predictor"
"""Its name among the players."""


@dataclass(frozen=True)
class Stage:
    """Everything that exploration and evaluation need."""

    writers: tuple[Writer, ...]
    predictor: Predictor
    prompts: ProfilePrompts
    profiles: CallLog
    verdicts: CallLog


def set_stage(recipe: LettingoRecipe, dataset: Dataset, start: Mapping[Role, Path], work: Path) -> Stage:
    """Load writers and predictor, and open their logs.

    Args:
        recipe: names them.
        dataset: what prompts are about.
        start: adapters of `llmrec.training.lettingo.start.start_adapters`.
        work: folder of the logs.
    """
    players = {
        writer_name(writer): Player(writer.backbone or recipe.backbone, _adapter(writer.adapter, start.get("writer")))
        for writer in recipe.writers
    }
    predictor = recipe.predictor
    players[PREDICTOR] = Player(
        predictor.backbone or recipe.backbone, _adapter(predictor.adapter, start.get("predictor"))
    )
    engines = open_engines(players, seed=recipe.seed)
    prompts = ProfilePrompts(dataset, recipe.item_fields)
    return Stage(
        writers=tuple(Writer(writer, *engines[writer_name(writer)]) for writer in recipe.writers),
        predictor=make_predictor(recipe, engines[PREDICTOR], prompts),
        prompts=prompts,
        profiles=CallLog(work / PROFILES),
        verdicts=CallLog(work / VERDICTS),
    )


def writer_name(settings: WriterSettings) -> str:
    """A writer's name among the players."""
    return f"writer-{settings.name}"


def make_predictor(recipe: LettingoRecipe, engine: Engine, prompts: ProfilePrompts) -> Predictor:
    """The recipe's predictor over an engine."""
    style = recipe.predictor.style
    return Predictor(engine.lm, adapter=engine.adapter, identity=engine.identity, style=style, prompts=prompts)


def _adapter(named: str | None, start: Path | None) -> str | None:
    if named != "start":
        return named
    if start is None:
        raise ConfigError("the adapter 'start' was not trained; set start: in the recipe, or name a folder")
    return str(start)


async def explore_and_judge(
    recipe: LettingoRecipe, stage: Stage, windows: Sequence[Window]
) -> tuple[list[Pair], PairFacts]:
    """Profiles, verdicts and pairs of the users of the alignment."""
    candidates = await explore(
        windows,
        stage.writers,
        stage.prompts,
        recipe.explore,
        stage.profiles,
        seed=recipe.seed,
        one_line=recipe.policy_style == "raw",
    )
    questions = await judged(stage.predictor, windows, candidates, stage.verdicts)
    pairs: list[Pair] = []
    places = [(own, place) for own, window in enumerate(windows) for place in range(len(window.targets))]
    for (own, _), verdicts in zip(places, questions, strict=True):
        pairs += preference_pairs(candidates[own], verdicts)
    return pairs, pair_facts([candidates[own] for own, _ in places], questions, pairs, len(windows))


async def judged(
    predictor: Predictor, windows: Sequence[Window], candidates: Sequence[Sequence[Candidate]], log: CallLog
) -> list[list[Verdict]]:
    """Verdicts on every profile, one list for each target of each window, in order."""
    cases = [
        [Case(window.recent, candidate.text, target) for candidate in own]
        for window, own in zip(windows, candidates, strict=True)
        for target in window.targets
    ]
    verdicts = iter(await predictor.judge([case for question in cases for case in question], log))
    return [[next(verdicts) for _ in question] for question in cases]
