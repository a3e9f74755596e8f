"""The recommender as a graph: understand the message, plan and call tools over the pool, rank, write, check.

    llmrec chat --backbone DIR          talks to it
    langgraph dev                       serves it (langgraph.json), with $LLMREC_BACKBONE as the model

`build` compiles it for a caller that brings data and model; `graph` makes both from agent.yaml, for the development
server.
"""

from __future__ import annotations

from typing import Any

from langgraph.graph import END, START, StateGraph

from llmrec.roles.brain import Brain
from llmrec.roles.recommender import RecommenderConfig, RecommenderNodes, State
from llmrec.tools.resources import Resources

Config = RecommenderConfig


def build(config: Config, *, resources: Resources, brain: Brain, checkpointer: Any = None) -> Any:
    """Compile the graph.

    Args:
        resources: dataset and indices (`llmrec.tools.resources.build_resources`).
        brain: `GrammarBrain` over any language model, or `ChatBrain` over a tool-calling chat model.
        checkpointer: keeps threads, for chats.
    """
    nodes = RecommenderNodes(config, resources, brain)
    graph = StateGraph(State)
    graph.add_node("observe", nodes.observe)
    graph.add_node("understand", nodes.understand)
    graph.add_node("plan", nodes.plan)
    graph.add_node("act", nodes.act)
    graph.add_node("rank", nodes.rank)
    graph.add_node("write", nodes.write)
    graph.add_node("check", nodes.check)
    graph.add_edge(START, "observe")
    graph.add_edge("observe", "understand")
    graph.add_edge("understand", "plan")
    graph.add_conditional_edges("plan", nodes.after_plan, ["act", "rank"])
    graph.add_edge("act", "plan")
    graph.add_edge("rank", "write")
    graph.add_edge("write", "check")
    graph.add_edge("check", END)
    return graph.compile(checkpointer=checkpointer, name="recommender")


async def graph() -> Any:
    """The graph for ``langgraph dev``: dataset and backbone as agent.yaml and $LLMREC_BACKBONE say, loaded once."""
    from llmrec.roles.serving import served

    config, resources, brain = await served("recommender")
    return build(config, resources=resources, brain=brain)
