"""Exploration: several writers write profiles of the same users, in turns (LettinGo, section 3.1)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveInt

from llmrec.errors import ConfigError
from llmrec.lm.protocol import LanguageModel, Sampling
from llmrec.seeding import derive
from llmrec.training.lettingo.call_log import CallLog, answer_all, call_key
from llmrec.training.lettingo.prompts import ProfilePrompts, Style
from llmrec.training.lettingo.windows import Window
from llmrec.training.recipe import PathOrName

AT_ONCE = 256
"""Users between two writes of the log."""


class WriterSettings(BaseModel):
    """One writer of profiles."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    backbone: PathOrName | None = None
    """Any backbone spec (a folder, a hub id, endpoint:URL, vllm:FOLDER); None is the recipe's own."""
    adapter: PathOrName | None = None
    """LoRA adapter of the writer; "start" is the one that this training starts from."""
    style: Style = "chat"
    prompt: str | None = None
    """Template of its own (prompts/NAME.jinja); None is the shipped one."""
    temperature: NonNegativeFloat = 1.0
    """Sampling temperature of the paper."""


class Writer(NamedTuple):
    """A writer that is ready."""

    settings: WriterSettings
    lm: LanguageModel
    adapter: str | None
    """Name of the adapter inside `lm`."""
    identity: str
    """Stands for the weights in the log (`llmrec.training.lettingo.engines.Engine`)."""


class Candidate(NamedTuple):
    """A profile that was written."""

    user: int
    writer: str
    text: str


class ExploreSettings(BaseModel):
    """How much is explored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    candidates: PositiveInt = 10
    """Profiles of a user, over all writers. The paper has ten per writer and ten per user; its counts fit these."""
    max_tokens: PositiveInt = 512
    """Longest profile in tokens."""


def turns(n_writers: int, total: int) -> list[int]:
    """How many profiles each writer writes when they take turns, first come first.

    Raises:
        ConfigError: there is no writer.
    """
    if n_writers < 1:
        raise ConfigError("exploration needs at least one writer, got none; name one under writers:")
    return [total // n_writers + (place < total % n_writers) for place in range(n_writers)]


async def explore(
    windows: Sequence[Window],
    writers: Sequence[Writer],
    prompts: ProfilePrompts,
    settings: ExploreSettings,
    log: CallLog,
    *,
    seed: int,
    one_line: bool = False,
) -> list[list[Candidate]]:
    """Profiles of each user, without empty and repeated texts.

    Args:
        windows: users whose older items are shown.
        writers: take turns.
        prompts: of the dataset.
        settings: how many and how long.
        log: what was written before is not asked again.
        seed: of the draws; they depend on (seed, writer, user) alone.
        one_line: join the lines of a text, as the predictor reads it. A policy that writes raw text ends at a line
            break, so what it would learn behind one could never be read.

    Returns:
        For each window the different texts, those of the first writer first.
    """
    found: list[list[Candidate]] = [[] for _ in windows]
    for writer, n in zip(writers, turns(len(writers), settings.candidates), strict=True):
        texts = await written(windows, writer, prompts, log, n=n, max_tokens=settings.max_tokens, seed=seed)
        for own, window, raw in zip(found, windows, texts, strict=True):
            drawn = [" ".join(text.split()) for text in raw] if one_line else raw
            known = {candidate.text for candidate in own}
            own += [
                Candidate(window.user, writer.settings.name, t) for t in dict.fromkeys(drawn) if t and t not in known
            ]
    return found


async def written(
    windows: Sequence[Window],
    writer: Writer,
    prompts: ProfilePrompts,
    log: CallLog,
    *,
    n: int,
    max_tokens: int,
    seed: int,
) -> list[list[str]]:
    """`n` profiles of each user by one writer; at temperature 0 all are the same and one is asked for."""
    settings, lm, adapter, identity = writer
    if n == 0:
        return [[] for _ in windows]
    asked = [prompts.write(window.older, style=settings.style, template=settings.prompt) for window in windows]
    samplings = [
        Sampling(
            max_tokens=max_tokens,
            temperature=settings.temperature,
            n=n if settings.temperature else 1,
            stop=("\n",) if settings.style == "raw" else (),  # a raw profile is one line
            seed=derive(seed, "profile", settings.name, window.user),
        )
        for window in windows
    ]
    keys = [call_key("write", identity, prompt, sampling) for prompt, sampling in zip(asked, samplings, strict=True)]

    async def ask(places: Sequence[int]) -> list[list[str]]:
        calls = (lm.generate(asked[place], sampling=samplings[place], adapter=adapter) for place in places)
        return [[one.text.strip() for one in completions] for completions in await asyncio.gather(*calls)]

    return await answer_all(log, keys, ask, at_once=AT_ONCE)
