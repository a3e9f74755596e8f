"""A small world for tests: films with planted tastes, and a scripted reader that plays users by their tastes."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from llmrec.data.catalogue import Catalogue
from llmrec.data.dataset import Dataset
from llmrec.data.interactions import Interactions
from llmrec.data.splits import Split, leave_one_out
from llmrec.errors import ModelError
from llmrec.lm.protocol import Capabilities, Completion, Constraint, Message, Sampling
from llmrec.roles.instruction_words import PHRASES
from llmrec.roles.observation import Observation, Reply
from llmrec.roles.opinion import STARS

CAPABILITIES = Capabilities(frozenset({"score", "generate"}), frozenset({"lark"}), ("user",))
CHAT_CAPABILITIES = Capabilities(frozenset({"score", "generate"}), frozenset({"json_schema"}), ("user",))
GREEDY = Sampling(temperature=0.0)
GENRES = ("Drama", "Horror", "Comedy", "Sci-Fi", "Western", "Romance", "Crime", "War")


def make_dataset(n_items: int = 240, n_users: int = 40, n_events: int = 14, *, ratings: bool = True) -> Dataset:
    """Films of one or two genres; user u takes mostly films of genre u mod 8, and rates them higher."""
    draws = np.random.default_rng(7)
    genres = [
        [GENRES[k % 8]] + ([GENRES[(k // 8) % 8]] if k % 3 == 0 and (k // 8) % 8 != k % 8 else [])
        for k in range(n_items)
    ]
    catalogue = Catalogue.from_columns(
        {
            "item_id": [f"f{k}" for k in range(n_items)],
            "title": [f"Film {k}" for k in range(n_items)],
            "year": [1950 + (k * 7) % 70 for k in range(n_items)],
            "runtime_min": [80 + (k * 13) % 90 for k in range(n_items)],
            "genres": genres,
        },
        flat_fields=("genres",),
    )
    users, items, stars = [], [], []
    for user in range(n_users):
        own = [k for k in range(n_items) if GENRES[user % 8] in genres[k]]
        taken = [int(k) for k in draws.permutation(own)[: n_events - 3]] + [
            int(k) for k in draws.integers(0, n_items, 3)
        ]
        taken = list(dict.fromkeys(int(k) for k in draws.permutation(taken)))
        users += [user] * len(taken)
        items += taken
        stars += [int(draws.integers(4, 6)) if k in own else int(draws.integers(1, 4)) for k in taken]
    table = pa.table(
        {"age_group": ["25-34", "45-49"] * (n_users // 2), "occupation": ["engineer", "artist"] * (n_users // 2)}
    )
    interactions = Interactions.from_arrays(
        users,
        items,
        None,
        stars if ratings else None,
        user_ids=[f"u{k}" for k in range(n_users)],
        n_items=n_items,
        users_table=table,
    )
    return Dataset("toy", "toy", catalogue, interactions, item_noun="film" if ratings else "product", domain="films")


def make_world(**settings: Any) -> tuple[Dataset, Split]:
    dataset = make_dataset(**settings)
    return dataset, leave_one_out(dataset.interactions)


@dataclass
class Taster:
    """Plays users: takes what shares a word between "Likes" and "Category". Keeps every prompt."""

    pause_s: float = 0.0
    taken: float = 0.75
    """Click probability of an item with a liked genre, on an even mixture."""
    other: float = 0.35
    adores_all: bool = False
    """Everything is to this user's liking."""
    fail_on: str | None = None
    """Raises ModelError where this text is in the prompt."""
    prompts: list[str] = field(default_factory=list)
    name: str = "taster"
    capabilities: Capabilities = CAPABILITIES

    async def score(
        self, prompt: str | Sequence[Message], continuations: Sequence[str], *, adapter: str | None = None
    ) -> list[float]:
        assert isinstance(prompt, str)
        await self._think(prompt)
        likes = set(re.findall(r"Likes: (.*?)\.\n", prompt)[0].split(", ")) if "Likes:" in prompt else set()
        shown = prompt.rsplit("Category: ", 1)[1].removesuffix(" ->").split(", ")
        good = self.adores_all or bool(likes.intersection(shown))
        click = self.taken if good else self.other
        if len(continuations) == 2:
            return [float(np.log(1 - click)), float(np.log(click))]
        shares = np.array([0.05, 0.1, 0.15, 0.4, 0.3] if good else [0.2, 0.3, 0.3, 0.15, 0.05])
        assert list(continuations) == [" skip", *(f" {star}" for star in STARS)]
        return [float(value) for value in np.log([1 - click, *(click * shares)])]

    async def generate(
        self,
        prompt: str | Sequence[Message],
        *,
        sampling: Sampling = GREEDY,
        tools: Sequence[Mapping[str, Any]] = (),
        constraint: Constraint | None = None,
        adapter: str | None = None,
    ) -> list[Completion]:
        """Answers with the first candidate of the grammar."""
        assert isinstance(prompt, str)
        assert constraint is not None
        await self._think(prompt)
        first = constraint.value.splitlines()[1]
        head = re.sub(r"\\(.)", r"\1", first[first.index("/") + 1 : first.index('"say": "')])
        fields = json.loads(head.removesuffix(", ") + "}")
        say = PHRASES[fields["class"]][0].format(value=fields["value"])
        text = f'{head}"say": "{say}"}}'
        return [Completion(text, -1.0, 10, "stop", raw=text)]

    async def embed(self, texts: Sequence[str], *, adapter: str | None = None) -> npt.NDArray[np.float32]:
        raise AssertionError("no user embeds anything")

    async def _think(self, prompt: str) -> None:
        self.prompts.append(prompt)
        await asyncio.sleep(self.pause_s)
        if self.fail_on is not None and self.fail_on in prompt:
            raise ModelError("the engine broke")


@dataclass
class ChatTaster(Taster):
    """Plays users in a chat: says yes to what shares a word between "You like" and "Category", with a bias to yes."""

    bias: float = 0.0
    """Added to the log-odds of yes."""
    name: str = "chat-taster"
    capabilities: Capabilities = CHAT_CAPABILITIES

    async def score(
        self, prompt: str | Sequence[Message], continuations: Sequence[str], *, adapter: str | None = None
    ) -> list[float]:
        assert not isinstance(prompt, str)
        await self._think("\n".join(str(message["content"]) for message in prompt))
        likes = set(re.findall(r"You like: (.*?)\.\n", str(prompt[0]["content"]))[0].split(", "))
        shown = str(prompt[1]["content"]).rsplit("Category: ", 1)[1].split(", ")
        good = self.adores_all or bool(likes.intersection(shown))
        if continuations[0] == "1":
            return [
                float(value) for value in np.log([0.05, 0.05, 0.1, 0.4, 0.4] if good else [0.3, 0.4, 0.2, 0.05, 0.05])
            ]
        click = self.taken if good else self.other
        odds = float(np.log(click / (1 - click))) + self.bias
        return [odds if text.lower() == "yes" else 0.0 for text in continuations]

    async def generate(
        self,
        prompt: str | Sequence[Message],
        *,
        sampling: Sampling = GREEDY,
        tools: Sequence[Mapping[str, Any]] = (),
        constraint: Constraint | None = None,
        adapter: str | None = None,
    ) -> list[Completion]:
        """Says the first sentence of the schema."""
        assert constraint is not None
        assert not isinstance(prompt, str)
        await self._think("\n".join(str(message["content"]) for message in prompt))
        text = json.dumps({"choice": constraint.value["properties"]["choice"]["enum"][0]})
        return [Completion(text, -1.0, 10, "stop", raw=text)]


@dataclass
class FixedPolicy:
    """Shows unseen items with one of `genres` (None: any), in catalogue order; keeps every observation."""

    name: str
    dataset: Dataset
    genres: tuple[str, ...] | None = None
    follow: bool = False
    """Do what the user says: show what the message names, or leave it out after "less"."""
    swap: str | None = None
    """Follow these words instead of the user's own."""
    repeat: int | None = None
    """Show this item and nothing else."""
    empty: bool = False
    strangers: tuple[int, ...] = ()
    fails_in_turn: int | None = None
    seen: list[Observation] = field(default_factory=list)
    settings: Mapping[str, Any] = field(default_factory=dict)

    async def recommend(self, observation: Observation, *, user: int, slate_size: int, seed: int) -> Reply:
        self.seen.append(observation)
        if self.fails_in_turn == observation.turn:
            return Reply((), (), "", failed="OutputError: unreadable")
        if self.empty:
            return Reply((), (), "")
        if self.repeat is not None:
            return Reply((self.repeat,) * slate_size, (), "")
        catalogue = self.dataset.catalogue
        banned = {*observation.history, *observation.shown_items}
        message = (self.swap if self.swap is not None else observation.messages[-1]) if observation.messages else ""
        rows = [row for row in range(len(catalogue)) if row not in banned]
        if self.genres is not None:
            rows = [row for row in rows if set(self.genres).intersection(catalogue.values(row, "genres"))]
        if self.follow and message:
            rows.sort(key=lambda row: -_fits(message, catalogue, row))
        slate = (*self.strangers, *rows)[:slate_size]
        return Reply(tuple(slate), ("because",) * len(slate), "Here you are.")


def _fits(message: str, catalogue: Catalogue, row: int) -> bool:
    named = [genre for genre in GENRES if genre in message]
    has = bool(set(named).intersection(catalogue.values(row, "genres")))
    return not has if re.search(r"\b(less|fewer|no more|enough)\b", message.lower()) else has
