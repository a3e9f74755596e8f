"""The recipe of `finetune/tools.py`: adapters that choose tools and write their arguments."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from llmrec.training.recipe import Recipe


class ToolsRecipe(Recipe):
    """Tool calling by one joint adapter, or by one that chooses and others that write (DualTune, arXiv 2510.00229)."""

    script: Literal["tools.py"] = "tools.py"
    mode: Literal["joint", "decoupled"] = "decoupled"
    """joint: one adapter learns whole calls. decoupled: `tool_select` learns names, others learn arguments."""
    arguments: Literal["shared", "per_tool"] = "shared"
    """Decoupled only. shared: one adapter writes the arguments of all tools. per_tool: each tool has its own."""
    loss: Literal["call", "choices"] = "call"
    """call: all of a call is learnt, as in the paper. choices: of `read`, whose arguments a grammar settles but for the
    labels, only these; copying the message takes a small model most of its training."""
    minimum_calls: PositiveInt = 200
    """A tool with fewer calls among the training turns gets no adapter of its own: rare tools share one."""
    turns: PositiveInt = 3000
    """Turns of training users, in phrasing families for training."""
    validation_turns: NonNegativeInt = 300
    """Turns of other users in the development families, whose loss is watched."""
    acting_share: float = Field(default=0.3, gt=0, le=1)
    """Share of turns whose tool calls are learnt too; of the others only the reading is. Calls follow from what was
    read, so they need fewer examples."""
    register_adapters: bool = False
    """Enter the adapters in the backbone's `adapters.json`, which makes the agent use them."""
