"""python eval/tools.py --backbone runs/quickstart/backbone --joint runs/tools --decoupled runs/tools-decoupled

How well a small model calls tools: one joint adapter, decoupled adapters and the bare backbone, with and without a
grammar, on phrasings that training contains and on families that it does not (test users in both). Then human turns of
ReDial (--redial PATH): hit@1, 10 and 50 of the recommended titles that nobody mentioned before, beside BM25 over the
request and popularity. Each row is kept in --state as soon as it is measured, so a killed run goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.data import redial
from llmrec.data.dataset import Dataset
from llmrec.data.spec import load
from llmrec.data.splits import leave_one_out
from llmrec.data.turns import RecommendationTurn
from llmrec.lm.adapters import content_hash
from llmrec.lm.loading import load_backbone
from llmrec.lm.protocol import LanguageModel
from llmrec.metrics.bootstrap import bootstrap_mean
from llmrec.ranking import registry
from llmrec.roles.brain import Brain, GrammarBrain
from llmrec.roles.inventory import DEVELOPMENT_FAMILIES, TOOL_FAMILIES
from llmrec.roles.loading import load_agent
from llmrec.roles.observation import Observation, Shown
from llmrec.roles.orchestrator import JOINT, ToolAdapters, ToolBrain
from llmrec.roles.recommender import respond
from llmrec.roles.voices import HELD_OUT_FAMILIES
from llmrec.seeding import rng
from llmrec.tools.resources import Resources, build_resources
from llmrec.training.tools.scores import TurnScore, score_turn
from llmrec.training.tools.trajectories import Trajectory, trajectories, users_of_part

PARTS = {"seen": TOOL_FAMILIES, "development": DEVELOPMENT_FAMILIES, "held out": HELD_OUT_FAMILIES}
CUTS = (1, 10, 50)
GIVEN, PRODUCT = "arguments, given the true tool", "tool x arguments, given the true tool"


@dataclass(frozen=True)
class Setting:
    """One brain."""

    name: str
    brain: Callable[[LanguageModel], Brain]


def settings(adapters: Mapping[str, Path], constraints: Sequence[str]) -> list[Setting]:
    """The brains that these adapters make possible; the bare backbone always."""
    made = [Setting("bare backbone, labels by name", GrammarBrain)]
    decoupled = ToolAdapters.of([name for name in adapters if name != JOINT])
    for held in constraints:
        rule = held == "grammar"
        made.append(_tools(f"bare backbone, tools, {held}", ToolAdapters(), rule))
        if JOINT in adapters:
            made.append(_tools(f"joint adapter, {held}", ToolAdapters(arguments=JOINT, joint=True), rule))
        if decoupled is not None:
            made.append(_tools(f"decoupled adapters, {held}", decoupled, rule))
    return made


def _tools(name: str, adapters: ToolAdapters, rule: bool) -> Setting:
    return Setting(name, lambda lm: ToolBrain(lm, adapters, constrained=rule))


async def measure(
    brain: Brain, turns: Sequence[Trajectory], resources: Resources, *, seed: int
) -> dict[str, dict[str, float]]:
    """One row of the table (see `row_of`)."""
    scores = await asyncio.gather(*(score_turn(brain, turn, resources, seed=seed) for turn in turns))
    return row_of(scores, told=isinstance(brain, ToolBrain), seed=seed)


def row_of(scores: Sequence[TurnScore], *, told: bool, seed: int) -> dict[str, dict[str, float]]:
    """Every metric with its interval and n.

    The product of "tool" and "arguments, given the true tool" is what "tool and arguments" would be if one said nothing
    about the other (DualTune, arXiv 2510.00229: end to end is about P(tool) x P(arguments | tool)). It is no mean of
    steps, so it has no interval.

    Args:
        scores: of turns.
        told: the brain can be told the tool; without it there are neither these arguments nor the product.
        seed: of the intervals.
    """
    row: dict[str, dict[str, float]] = {}
    for name, values in _columns(scores).items():
        if name == GIVEN and not told:
            continue
        row[name] = _interval(values, seed)
        if name == GIVEN:
            row[PRODUCT] = {"value": row["tool"]["value"] * row[name]["value"], "n": row[name]["n"]}
    return row


def _columns(scores: Sequence[TurnScore]) -> dict[str, list[float]]:
    steps = [step for one in scores for step in one.steps]
    return {
        "tool": [step.tool for step in steps],
        "tool of the message": [one.steps[0].tool for one in scores],
        GIVEN: [step.given for step in steps],
        "tool and arguments": [step.call for step in steps],
        "F1": [one.f1 for one in scores],
        "F1 checked": [one.checked_f1 for one in scores],
        "exact": [one.exact for one in scores],
        "all tools": [one.sequence for one in scores],
        "hit@10": [one.hit for one in scores if one.hit is not None],
    }


def _interval(values: Sequence[float], seed: int) -> dict[str, float]:
    return {**bootstrap_mean(np.array(values, dtype=float), seed=seed)._asdict(), "n": len(values)}


# Human dialogues ------------------------------------------------------------------------------------------------------


async def human_hits(
    rank: Callable[[RecommendationTurn], Any], turns: Sequence[RecommendationTurn], *, seed: int
) -> dict[str, dict[str, float]]:
    """hit@k: whether one of the new targets is among the first k of what `rank` gives, without repeated items."""
    found: dict[str, list[float]] = {f"hit@{k}": [] for k in CUTS}
    for turn in turns:
        rows = [row for row in await rank(turn) if row not in turn.mentioned]
        for k in CUTS:
            found[f"hit@{k}"].append(float(bool(turn.new_targets & set(rows[:k]))))
    return {name: _interval(values, seed) for name, values in found.items()}


def bm25_ranker(resources: Resources) -> Callable[[RecommendationTurn], Any]:
    """BM25 with the user's last words as the query."""

    async def rank(turn: RecommendationTurn) -> list[int]:
        scores = resources.bm25.scores(turn.request)
        return [int(row) for row in np.argsort(-scores, kind="stable")[: CUTS[-1] + len(turn.mentioned)]]

    return rank


def popularity_ranker(turns: Sequence[RecommendationTurn], n_items: int) -> Callable[[RecommendationTurn], Any]:
    """Titles by how often the other dialogues recommend them: there is no training part, and none may see itself."""
    total = np.zeros(n_items, dtype=np.int64)
    own: dict[str, np.ndarray[Any, Any]] = {}
    for turn in turns:
        counts = own.setdefault(turn.dialogue, np.zeros(n_items, dtype=np.int64))
        np.add.at(counts, list(turn.targets), 1)
        np.add.at(total, list(turn.targets), 1)

    async def rank(turn: RecommendationTurn) -> list[int]:
        order = np.argsort(-(total - own[turn.dialogue]), kind="stable")
        return [int(row) for row in order[: CUTS[-1] + len(turn.mentioned)]]

    return rank


def agent_ranker(brain: Brain, resources: Resources, *, seed: int) -> Callable[[RecommendationTurn], Any]:
    """The agent: all of the user's messages, what was mentioned as shown before, a slate of fifty."""
    agent = load_agent("recommender", n=CUTS[-1], recommender="popular")
    graph = agent.build(agent.config, resources=resources, brain=brain)

    async def rank(turn: RecommendationTurn) -> list[int]:
        shown = (tuple(Shown(row, "view") for row in sorted(turn.mentioned)),) if turn.mentioned else ()
        view = Observation(messages=turn.requests, feedback=shown, turn=len(turn.requests) - 1)
        reply = await respond(graph, view, seed=seed)
        return list(reply.slate)

    return rank


# Running --------------------------------------------------------------------------------------------------------------


class State:
    """Rows measured so far."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self.rows: dict[str, Any] = known.get("rows", {}) if known.get("key") == key else {}

    def row(self, name: str, measured: Callable[[], Any]) -> None:
        """Measure a row unless it is there."""
        if name not in self.rows:
            self.rows[name] = measured()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps({"key": self.key, "rows": self.rows}, indent=1), encoding="utf-8")


def main() -> None:
    """Print the tables, or one JSON object."""
    given = _arguments()
    adapters = dict(_adapters(given.decoupled)) | dict(_adapters(given.joint))
    lm = load_backbone(given.backbone, adapters=adapters)
    trained = " ".join(f"{name}:{content_hash(folder)}" for name, folder in sorted(adapters.items()))
    key = f"{lm.name} {trained} {given.dataset} {given.turns} {given.human_turns} {given.redial} {given.seed}"
    state = State(given.state, key)
    chosen = [one for one in settings(adapters, given.constraints) if not given.only or given.only in one.name]
    dataset = load(given.dataset, seed=given.seed)
    split = leave_one_out(dataset.interactions)
    knn = registry.fitted("knn", dataset, split)
    resources = build_resources(dataset, train=split.train, neighbours=knn)
    users = [int(user) for user in users_of_part(split.train, seed=given.seed)["test"]]
    for part in given.parts:
        turns: list[Trajectory] = []
        for one in chosen:
            name = f"{part}: {one.name}"
            if name not in state.rows:
                turns = turns or trajectories(
                    resources,
                    split.train,
                    users=users,
                    n=given.turns,
                    seed=given.seed,
                    part="test",
                    families=PARTS[part],
                )
                brain = one.brain(lm)
                state.row(
                    name,
                    lambda brain=brain, turns=turns: asyncio.run(  # type: ignore[misc]
                        measure(brain, turns, resources, seed=given.seed)
                    ),
                )
    if given.redial:
        _human(given, lm, chosen, state)
    print(json.dumps(state.rows) if given.json else "\n".join(markdown(state.rows)))


def _human(given: argparse.Namespace, lm: LanguageModel, chosen: Sequence[Setting], state: State) -> None:
    dataset: Dataset = load(f"redial:{given.redial}")
    resources = build_resources(dataset)
    every = redial.turns(given.redial, dataset.catalogue)
    fair = [turn for turn in every if turn.new_targets and turn.requests]
    order = rng(given.seed, "redial").permutation(len(fair))[: given.human_turns]
    turns = [fair[int(index)] for index in order]
    rankers: dict[str, Callable[[RecommendationTurn], Any]] = {
        "BM25, the request's words": bm25_ranker(resources),
        "popularity in other dialogues": popularity_ranker(every, len(dataset.catalogue)),
    }
    for one in chosen:
        rankers[one.name] = agent_ranker(one.brain(lm), resources, seed=given.seed)
    for name, rank in rankers.items():
        state.row(f"ReDial: {name}", lambda rank=rank: asyncio.run(human_hits(rank, turns, seed=given.seed)))  # type: ignore[misc]


def _adapters(folder: Path | None) -> Iterator[tuple[str, Path]]:
    if folder is not None:
        yield from ((one.parent.name, one.parent) for one in sorted(folder.glob("*/adapter_config.json")))


def markdown(rows: Mapping[str, Any]) -> Iterator[str]:
    """One table for each part."""
    parts = dict.fromkeys(name.partition(": ")[0] for name in rows)
    for part in parts:
        mine = {name.partition(": ")[2]: row for name, row in rows.items() if name.startswith(f"{part}: ")}
        columns: list[str] = max((list(row) for row in mine.values()), key=len)  # some brains have fewer
        yield from ("", f"**{part}**", "", f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}")
        for name, row in mine.items():
            cells = [_cell(row[column]) if column in row else "–" for column in columns]
            yield f"| {name} | {' | '.join(cells)} |"


def _cell(found: Mapping[str, float]) -> str:
    bounds = f" [{found['low']:.3f}, {found['high']:.3f}]" if "low" in found else ""
    return f"{found['value']:.3f}{bounds} n={found['n']:.0f}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--decoupled", type=Path, help="output folder of finetune/tools.yaml with mode=decoupled")
    parser.add_argument(
        "--joint", type=Path, help="output folder of finetune/tools.yaml as it is: one adapter for both"
    )
    parser.add_argument("--dataset", default="films")
    parser.add_argument("--turns", type=int, default=300)
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), default=["seen", "held out"])
    parser.add_argument("--constraints", nargs="*", choices=["grammar", "free"], default=["grammar", "free"])
    parser.add_argument("--only", help="only brains whose name contains this")
    parser.add_argument("--redial", type=Path, help="folder of ReDial")
    parser.add_argument("--human-turns", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--state", type=Path, default=Path("runs/eval-tools.json"))
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
