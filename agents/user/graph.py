"""The simulated user as a graph: look at a slate item by item and act, then say what should change or be silent.

One run of the graph is one slate. The walk over its items is a loop inside one node, because a step of a graph costs
more than the arithmetic of a decision.
"""

from __future__ import annotations

from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph

from llmrec.roles import simulated_user
from llmrec.roles.mindset import UserConfig
from llmrec.roles.simulated_user import Player, Reaction, UserState

Config = UserConfig
"""Settings of agent.yaml."""


class Round(TypedDict, total=False):
    """State of one round. `user` and `slate` go in, `reaction` comes out."""

    user: UserState
    slate: tuple[int, ...]
    reaction: Reaction


def build(player: Player) -> Any:
    """Compile the graph of all users who share this player."""

    async def look(state: Round) -> Round:
        return {"reaction": await simulated_user.look(player, state["user"], state["slate"])}

    async def reflect(state: Round) -> Round:
        return {"reaction": await simulated_user.reflect(player, state["reaction"])}

    async def stays(state: Round) -> str:
        return END if state["reaction"].left else "reflect"

    graph = StateGraph(Round)
    graph.add_node("look", look)
    graph.add_node("reflect", reflect)
    graph.add_edge(START, "look")
    graph.add_conditional_edges("look", stays, ["reflect", END])
    graph.add_edge("reflect", END)
    return graph.compile()
