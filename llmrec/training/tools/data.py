"""Training examples of tool calls, one set for each adapter of a recipe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from llmrec.errors import DataError
from llmrec.roles.inventory import DEVELOPMENT_FAMILIES, TOOL_FAMILIES
from llmrec.roles.orchestrator import JOINT, SELECT
from llmrec.training.examples import Example, encode, fits
from llmrec.training.sft import SftData
from llmrec.training.tools.masks import argument_adapters, argument_example, call_counts, selection_example, with_loss
from llmrec.training.tools.trajectories import Conversation, Trajectory, trajectories, users_of_part

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llmrec.data.interactions import Interactions
    from llmrec.tools.resources import Resources
    from llmrec.training.tools.recipe import ToolsRecipe


class ToolTurns(NamedTuple):
    """Turns of both parts."""

    train: list[Conversation]
    validation: list[Conversation]


def tool_turns(resources: Resources, train: Interactions, recipe: ToolsRecipe) -> ToolTurns:
    """Conversations for training and validation: other users, other phrasing families."""
    parts = users_of_part(train, seed=recipe.seed)

    def part(name: str, n: int, families: Sequence[str]) -> list[Conversation]:
        if not n:
            return []
        made = trajectories(
            resources,
            train,
            users=[int(user) for user in parts[name]],
            n=n,
            seed=recipe.seed,
            part=name,
            families=families,
            acting_share=recipe.acting_share,
        )
        return conversations(made)

    return ToolTurns(
        part("train", recipe.turns, TOOL_FAMILIES), part("validation", recipe.validation_turns, DEVELOPMENT_FAMILIES)
    )


def conversations(turns: Sequence[Trajectory]) -> list[Conversation]:
    """Readings, and the calls where there are any."""
    return [one for turn in turns for one in (turn.reading(), turn.acting()) if one]


def adapter_tools(recipe: ToolsRecipe, turns: ToolTurns) -> dict[str, tuple[str, ...] | None]:
    """Adapter -> the tools that it learns to write; None is all (joint), () the choice alone."""
    if recipe.mode == "joint":
        return {JOINT: None}
    counts: Counter[str] = call_counts(turns.train)
    writers = argument_adapters(counts, per_tool=recipe.arguments == "per_tool", minimum=recipe.minimum_calls)
    return {SELECT: (), **writers}


def adapter_data(
    tools: tuple[str, ...] | None, turns: ToolTurns, recipe: ToolsRecipe, tokenizer: PreTrainedTokenizerBase
) -> SftData:
    """Encoded examples of one adapter.

    Args:
        tools: see `adapter_tools`.

    Raises:
        DataError: every example is longer than max_tokens.
    """

    def examples(part: Sequence[Conversation]) -> list[Example]:
        if tools == ():
            return with_loss(selection_example(one) for one in part)
        return with_loss(argument_example(one, tools, choices_only=recipe.loss == "choices") for one in part)

    n_longer = 0
    encoded = []
    for part in turns:
        fitting, longer = fits(
            (encode(one, tokenizer, end=False) for one in examples(part)), max_tokens=recipe.max_tokens
        )
        encoded.append(fitting)
        n_longer += longer
    if not encoded[0]:
        raise DataError(f"no example fits into max_tokens={recipe.max_tokens}; raise it")
    return SftData(encoded[0], encoded[1], n_longer)
