"""Recommenders as a session sees them: an observation in, a reply out.

Simple policies rank the catalogue and ignore what the user says; they never repeat what is in the history or was shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from llmrec.data.dataset import Dataset
from llmrec.data.splits import Split
from llmrec.errors import ConfigError
from llmrec.lm.protocol import LanguageModel
from llmrec.metrics.ranking import top_k
from llmrec.ranking import registry
from llmrec.retrieval.base import Recommender
from llmrec.retrieval.calrec import CalrecConfig, CalrecRecommender
from llmrec.roles.brain import GrammarBrain
from llmrec.roles.loading import load_agent
from llmrec.roles.observation import Observation, Reply
from llmrec.roles.orchestrator import ToolBrain
from llmrec.roles.recommender import respond
from llmrec.roles.serving import brain_for
from llmrec.seeding import derive, rng
from llmrec.tools.resources import build_resources

IntArray = npt.NDArray[np.int64]


class Policy(Protocol):
    """What plays the recommender in a session."""

    name: str
    settings: Mapping[str, Any]
    """What its answers depend on besides data and model, as plain values; part of the run's settings."""

    async def recommend(self, observation: Observation, *, user: int, slate_size: int, seed: int) -> Reply:
        """Answer one round.

        Args:
            observation: all that the recommender may know.
            user: index of the user in the interactions; known to any service, and part of every draw.
            slate_size: items to show.
            seed: run seed; draws depend on it, the user and the turn.
        """
        ...


class RankingPolicy:
    """Shows the best items of a fitted recommender.

    Args:
        recommender: fitted on the training part.
        name: name in reports; default the recommender's.
    """

    def __init__(self, recommender: Recommender, *, name: str | None = None) -> None:
        self.recommender = recommender
        self.name = name or recommender.name
        self.settings: Mapping[str, Any] = _settings_of(recommender)

    async def recommend(self, observation: Observation, *, user: int, slate_size: int, seed: int) -> Reply:
        """The best items that are neither in the history nor were shown before."""
        history = np.array(observation.full_history, dtype=np.int64)
        excluded = np.array(sorted({*observation.full_history, *observation.shown_items}), dtype=np.int64)
        scores = await self.recommender.score([history], users=[user], seed=seed)  # (1, n_items)
        best = top_k(scores, slate_size, [excluded])[0]
        slate = tuple(int(row) for row in best if row >= 0)
        return Reply(slate=slate, reasons=(f"ranked by {self.name}",) * len(slate), prose="")


class RandomPolicy:
    """Shows items drawn evenly from those that are neither in the history nor were shown before."""

    name = "random"
    settings: Mapping[str, Any] = {}

    def __init__(self, n_items: int) -> None:
        self.n_items = n_items

    async def recommend(self, observation: Observation, *, user: int, slate_size: int, seed: int) -> Reply:
        """Draws depend on (seed, user, turn)."""
        excluded = {*observation.full_history, *observation.shown_items}
        order = rng(seed, "random policy", user, observation.turn).permutation(self.n_items)
        slate = tuple(int(row) for row in order if int(row) not in excluded)[:slate_size]
        return Reply(slate=slate, reasons=("drawn at random",) * len(slate), prose="")


class AgentPolicy:
    """The recommender agent.

    Args:
        graph: compiled ``agents/recommender/graph.py``, made for the slate size of the run.
        settings: what the graph was made with.
        blind: the agent does not get to read what the user says (the control for instruction following).
    """

    def __init__(
        self, graph: Any, *, name: str = "agent", blind: bool = False, settings: Mapping[str, Any] | None = None
    ) -> None:
        self._graph = graph
        self.settings: Mapping[str, Any] = settings or {}
        self.name = name
        self.blind = blind

    async def recommend(self, observation: Observation, *, user: int, slate_size: int, seed: int) -> Reply:
        """Whatever the agent answers, cut to the slate size."""
        if self.blind:
            observation = replace(observation, messages=(), answered=0, request=None)
        reply = await respond(self._graph, observation, seed=derive(seed, user))
        return replace(reply, slate=reply.slate[:slate_size], reasons=reply.reasons[:slate_size])


def agent_policy(
    dataset: Dataset,
    split: Split,
    lm: LanguageModel,
    *,
    slate_size: int,
    recommender: Recommender | None = None,
    ranker: Recommender | None = None,
    adapter: str | None = None,
    blind: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> AgentPolicy:
    """The agent of ``agents/recommender`` over this dataset.

    Args:
        recommender: fitted, behind the tool `recommend`; None takes item-kNN, which also serves the tool `similar`.
        ranker: fitted, behind `rank` by taste; None takes the recommender.
        adapter: LoRA adapter that reads and plans; None is the bare backbone.
        settings: replace those of agent.yaml, such as brain="chat" or prose=False.
    """
    agent = load_agent("recommender", **{"n": slate_size, "adapter": adapter} | dict(settings or {}))
    neighbours = registry.fitted("knn", dataset, split)
    resources = build_resources(
        dataset, train=split.train, neighbours=neighbours, recommender=recommender, ranker=ranker
    )
    brain = brain_for(agent.config, lm, noun=dataset.item_noun)
    graph = agent.build(agent.config, resources=resources, brain=brain)
    kinds = {GrammarBrain: "grammar", ToolBrain: "tools"}
    asked = {"brain": kinds.get(type(brain), "chat")}  # what auto came to
    behind = {"behind": _settings_of(recommender or neighbours)}
    if ranker is not None:
        behind["ranked by"] = _settings_of(ranker)
    used = agent.config.model_dump(mode="json") | asked | behind
    return AgentPolicy(graph, name="agent-blind" if blind else "agent", blind=blind, settings=used)


def _settings_of(recommender: Recommender) -> dict[str, Any]:
    config = recommender.config.model_dump(mode="json") if isinstance(recommender, CalrecRecommender) else {}
    return {"recommender": recommender.name, **config}


def policy_names() -> tuple[str, ...]:
    """Every name that `build_policies` knows."""
    return ("agent", "agent-blind", *registry.names())


def build_policies(
    names: Sequence[str],
    dataset: Dataset,
    split: Split,
    lm: LanguageModel,
    *,
    slate_size: int,
    calrec: CalrecConfig | None = None,
    agent: Mapping[str, Any] | None = None,
) -> list[Policy]:
    """Policies by name, fitted on the training part.

    ``agent`` and ``agent-blind`` call the recommender that their settings name; if they name none, the fine-tuned one
    where the model has the adapter ``recommender``, else item-kNN. ``random``, every name of `llmrec.ranking.registry`
    and the folder of a saved recommender are the others.

    Args:
        calrec: sampling of the generative recommender, alone and inside the agent; None takes the paper's.
        agent: settings of the agent that replace those of agent.yaml.

    Raises:
        ConfigError: there is no such policy, or one is named twice.
    """
    for name in names:
        check_policy(name)
    if len(set(names)) != len(names) or not names:
        raise ConfigError(f"name at least one policy and none twice, got {', '.join(names) or 'none'}")
    settings = dict(agent or {})
    made: dict[str, Recommender] = {}

    def model(spec: str) -> Recommender:
        if spec not in made:
            calrec_here = spec == "calrec"
            made[spec] = (
                _calrec(dataset, split, lm, calrec) if calrec_here else registry.fitted(spec, dataset, split, lm=lm)
            )
        return made[spec]

    policies: list[Policy] = []
    for name in names:
        match name:
            case "agent" | "agent-blind":
                behind = settings.get("recommender") or ("calrec" if _plays_recommender(lm) else "knn")
                ranker = settings.get("ranker")
                one = agent_policy(
                    dataset,
                    split,
                    lm,
                    slate_size=slate_size,
                    recommender=model(behind),
                    ranker=model(ranker) if ranker else None,
                    blind=name != "agent",
                    settings=settings | {"recommender": behind},
                )
                policies.append(one)
            case "random":
                policies.append(RandomPolicy(len(dataset.catalogue)))
            case _:
                policies.append(RankingPolicy(model(name), name=name))
    return policies


def check_policy(name: str) -> None:
    """Raise `ConfigError` unless `build_policies` knows this policy."""
    if name not in policy_names() and not registry.is_saved(name):
        raise ConfigError(
            f"no policy is called {name!r}; choose from {', '.join(policy_names())}, or name the folder of a saved "
            "recommender"
        )


def _plays_recommender(lm: LanguageModel) -> bool:
    return "recommender" in lm.capabilities.adapters


def _calrec(dataset: Dataset, split: Split, lm: LanguageModel, config: CalrecConfig | None) -> Recommender:
    adapter = "recommender" if _plays_recommender(lm) else None
    recommender = registry.build("calrec", lm=lm, adapter=adapter, config=config)
    recommender.fit(dataset, split)
    return recommender
