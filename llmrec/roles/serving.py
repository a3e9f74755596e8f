"""Everything a recommender needs, made from its settings: for chats and for the development server."""

from __future__ import annotations

import asyncio
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from llmrec.errors import ConfigError, MissingDependencyError
from llmrec.lm.protocol import LanguageModel
from llmrec.retrieval.base import Recommender
from llmrec.roles.brain import Brain, GrammarBrain
from llmrec.roles.chat_brain import ChatBrain
from llmrec.roles.form_brain import FormBrain
from llmrec.roles.orchestrator import ToolAdapters, ToolBrain
from llmrec.roles.recommender import RecommenderConfig
from llmrec.tools.resources import Resources, build_resources

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel


def parts(config: RecommenderConfig, *, seed: int = 0, cache: Path | None = None) -> tuple[Resources, Brain]:
    """Load dataset and backbone, fit the recommenders, and build the indices.

    Args:
        config: its `adapter` is a name at the backbone, or a folder.

    Raises:
        ConfigError: no backbone is named, the adapter was made for another one, or a setting is wrong.
        ModelNotFoundError: the model or an adapter is missing or damaged.
    """
    backbone = config.backbone or os.environ.get("LLMREC_BACKBONE")
    if not backbone:
        raise ConfigError(
            "the recommender needs a language model; name a model folder or hub id with --backbone, in agent.yaml, "
            "or in the environment variable LLMREC_BACKBONE (llmrec quickstart trains one and prints its folder)"
        )
    kind, _, rest = backbone.partition(":")
    if kind == "chat":
        if config.brain == "grammar":
            raise ConfigError(f"a chat model of a provider takes no grammars, got {backbone!r} with the style text")
        resources = resources_for(config, seed=seed, cache=cache)
        return resources, ChatBrain(chat_model(rest), resources, writes=config.prose)
    from llmrec.lm.loading import chosen_adapter, load_backbone

    chosen = chosen_adapter(backbone, config.adapter, role="agent")
    lm = load_backbone(backbone, adapters=chosen.folders, seed=seed)
    config = config.model_copy(update={"adapter": chosen.name})
    _adapter(config, lm)  # a wrong name must not wait for the dataset
    resources = resources_for(config, lm=lm, seed=seed, cache=cache)
    return resources, brain_for(config, lm, noun=resources.dataset.item_noun)


def brain_for(config: RecommenderConfig, lm: LanguageModel, *, noun: str) -> Brain:
    """The brain over an engine that the settings ask for.

    Args:
        noun: what an item is called.

    Raises:
        ConfigError: the engine has no such adapter, or cannot do what the brain needs.
    """
    adapter = _adapter(config, lm)
    grammars = "lark" in lm.capabilities.constraints
    if config.brain in ("tools", "auto") and (calling := _tool_brain(config, lm, grammars)) is not None:
        return calling
    if config.brain == "chat" or (config.brain == "auto" and not grammars):
        return FormBrain(lm, noun=noun, adapter=adapter, writes=config.prose)
    if not grammars:
        raise ConfigError(f"{lm.name!r} takes no Lark grammars, got brain {config.brain!r}; use brain: chat or auto")
    return GrammarBrain(lm, adapter=adapter)


async def served(agent: str) -> tuple[RecommenderConfig, Resources, Brain]:
    """Settings and parts of an agent for a server that asks anew for every run: loaded by the first, kept for all.

    Loading happens in a thread, because it reads files and a server's event loop must not wait for them.
    """
    async with _loading:
        return await asyncio.to_thread(_served, agent)


_loading = asyncio.Lock()


@cache
def _served(agent: str) -> tuple[RecommenderConfig, Resources, Brain]:
    from llmrec.roles.loading import load_agent

    config: RecommenderConfig = load_agent(agent).config
    resources, brain = parts(config)
    return config, resources, brain


def chat_model(spec: str) -> BaseChatModel:
    """A tool-calling chat model of a provider that LangChain knows.

    Args:
        spec: "PROVIDER:MODEL", such as "openai:gpt-5" or "ollama:qwen3". Keys come from the provider's own environment
            variable and are never stored.

    Raises:
        ConfigError: the provider is unknown, or refuses its settings (a missing key, for example).
        MissingDependencyError: the provider's package is not installed.
    """
    from langchain.chat_models import init_chat_model

    provider, colon, _ = spec.partition(":")
    if not colon:
        raise ConfigError(f"a chat model is named chat:PROVIDER:MODEL, got {'chat:' + spec!r}")
    try:
        model: BaseChatModel = init_chat_model(spec, temperature=0)
    except ImportError as error:
        package = f"langchain-{provider.replace('_', '-')}"
        raise MissingDependencyError(package, needed_for=f"the chat model {spec!r}") from error
    except Exception as error:  # each provider raises its own kinds: unknown names, missing keys
        raise ConfigError(f"the chat model {spec!r} cannot be used: {' '.join(str(error).split())}") from error
    return model


def resources_for(
    config: RecommenderConfig, *, lm: LanguageModel | None = None, seed: int = 0, cache: Path | None = None
) -> Resources:
    """Load the dataset and fit item-kNN and the configured recommender on its training part."""
    from llmrec.data.spec import load
    from llmrec.data.splits import leave_one_out
    from llmrec.ranking import registry

    dataset = load(config.dataset, seed=seed, cache=cache)
    split = leave_one_out(dataset.interactions)
    neighbours = registry.fitted("knn", dataset, split)
    made: dict[str, Recommender] = {"knn": neighbours}
    for spec in (config.recommender, config.ranker or config.recommender):
        if spec not in made:
            made[spec] = registry.fitted(spec, dataset, split, lm=lm, same_events=False)
    return build_resources(
        dataset,
        train=split.train,
        neighbours=neighbours,
        recommender=made[config.recommender],
        ranker=made[config.ranker or config.recommender],
    )


def _tool_brain(config: RecommenderConfig, lm: LanguageModel, grammars: bool) -> Brain | None:
    """The brain over adapters for tools; None where `auto` finds none, or where another adapter is named."""
    adapters = ToolAdapters.of(lm.capabilities.adapters)
    if config.brain == "tools" and (adapters is None or not grammars):
        known = ", ".join(lm.capabilities.adapters) or "none"
        raise ConfigError(
            f"brain tools needs an engine with Lark grammars and the adapters of finetune/tools.yaml, got {lm.name!r} "
            f"with the adapters {known}; train them with: llmrec finetune tools --set backbone=DIR"
        )
    if adapters is None or not grammars or (config.brain == "auto" and config.adapter is not None):
        return None
    return ToolBrain(lm, adapters, votes=config.votes)


def _adapter(config: RecommenderConfig, lm: LanguageModel) -> str | None:
    if config.adapter is not None and config.adapter not in lm.capabilities.adapters:
        known = ", ".join(lm.capabilities.adapters) or "none"
        raise ConfigError(
            f"the backbone has no adapter {config.adapter!r}; its adapters are: {known}; name one of them, or the "
            "folder of one that was trained on this backbone (llmrec finetune writes it and prints its path)"
        )
    return config.adapter
