"""``llmrec chat``: talk to the recommender in this terminal, or feed it lines on standard input."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmrec.cli.common import (
    AdapterOption,
    DatasetOption,
    JsonOption,
    RankerOption,
    RecommenderOption,
    SeedOption,
    StyleOption,
    ToolsOption,
    agent_settings,
    console,
    emit_json,
    output,
    run_command,
)

if TYPE_CHECKING:
    from rich.console import Console

    from llmrec.data.catalogue import Catalogue
    from llmrec.roles.chat_session import ChatSession
    from llmrec.roles.observation import Reply

app = typer.Typer(add_completion=False)

_ENDS = ("/quit", "/exit", "quit", "exit")
HELP = "/why tells how the last list came about, /undo forgets the last turn, /quit ends, /help shows this."


@app.command()
def chat(
    dataset: DatasetOption = "films",
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            help="Model folder, hub id, endpoint:URL, vllm:ID or chat:PROVIDER:MODEL; default $LLMREC_BACKBONE.",
            metavar="DIR",
        ),
    ] = None,
    agent: Annotated[str, typer.Option("--agent", help="Name of an agent, or a folder with graph.py.")] = "recommender",
    adapter: AdapterOption = None,
    style: StyleOption = "auto",
    tools: ToolsOption = None,
    recommender: RecommenderOption = None,
    ranker: RankerOption = None,
    history: Annotated[
        str,
        typer.Option("--history", help="Item ids you took before, oldest first, separated by commas.", metavar="IDS"),
    ] = "",
    session: Annotated[str | None, typer.Option("--session", help="Name of the chat; a known one goes on.")] = None,
    store: Annotated[Path | None, typer.Option("--store", help="SQLite file of the chats.", metavar="FILE")] = None,
    json_output: JsonOption = False,
    seed: SeedOption = 0,
) -> None:
    """Talk to the recommender: prose, a table of items, and reasons; the chat is kept and can go on later."""
    with run_command(resume="the chat is kept; go on with the same --session"):
        import asyncio

        from llmrec.roles.loading import load_agent

        changes: dict[str, Any] = {"dataset": dataset, **agent_settings(style, tools, recommender, ranker)}
        if backbone is not None:
            changes["backbone"] = backbone
        if adapter is not None:
            changes["adapter"] = adapter
        loaded = load_agent(agent, **changes)
        ids = [part.strip() for part in history.split(",") if part.strip()]
        answer = asyncio.run(_chat(loaded, ids, session, store, json_output, seed))
        if json_output:
            emit_json({"dataset": dataset, "agent": loaded.name, "seed": seed, **answer})


async def _chat(
    agent: Any, history: list[str], session: str | None, store: Path | None, json_output: bool, seed: int
) -> dict[str, Any]:
    import uuid

    from llmrec.errors import ConfigError
    from llmrec.memory.threads import default_path, open_threads
    from llmrec.roles.chat_session import ChatSession
    from llmrec.roles.recommender import RecommenderConfig
    from llmrec.roles.serving import parts

    if not isinstance(agent.config, RecommenderConfig):
        raise ConfigError(f"the agent {agent.name!r} is no recommender; chat needs one")
    screen = console() if json_output else output()
    resources, brain = parts(agent.config, seed=seed)
    catalogue = resources.dataset.catalogue
    for item_id in history:
        catalogue.row(item_id)  # a wrong id ends the command before the first question
    async with open_threads(store or default_path()) as checkpointer:
        graph = agent.build(agent.config, resources=resources, brain=brain, checkpointer=checkpointer)
        name = session or uuid.uuid4().hex[:8]
        talk = ChatSession(graph, catalogue, thread=name, history=history, seed=seed)
        screen.print(_welcome(brain.name, name, len(await talk.turns())), style="dim", soft_wrap=True)
        await _converse(talk, catalogue, screen)
        return {"session": name, "backbone": brain.name, "turns": await talk.plain()}


async def _converse(talk: ChatSession, catalogue: Catalogue, screen: Console) -> None:
    from llmrec.errors import ModelError

    interactive = sys.stdin.isatty()
    while (line := _read(screen, interactive)) is not None:
        match line:
            case "":
                continue
            case end if end.casefold() in _ENDS:
                return
            case "/help":
                screen.print(HELP, style="dim")
            case "/undo":
                forgotten = await talk.undo()
                screen.print(
                    "nothing to undo" if forgotten is None else f"forgotten: {forgotten}", style="dim", markup=False
                )
            case "/why":
                _show_why(await talk.turns(), catalogue, screen)
            case command if command.startswith("/"):
                screen.print(f"no command {command}. {HELP}", style="dim", markup=False)
            case message:
                try:
                    _show(await talk.say(message), catalogue, screen)
                except ModelError as error:
                    if not interactive:
                        raise
                    screen.print(f"the model failed: {error}", style="red", markup=False)


def _read(screen: Console, interactive: bool) -> str | None:
    """The next line, stripped; None at the end of input."""
    if interactive:
        try:
            return screen.input("[bold]> [/bold]").strip()
        except EOFError:
            return None
    line = sys.stdin.readline()
    if not line:
        return None
    screen.print(f"> {line.strip()}", markup=False, style="bold")
    return line.strip()


def _welcome(brain: str, name: str, n_turns: int) -> str:
    started = f"going on after {n_turns} turns" if n_turns else "a new chat"
    return f"{brain}; chat {name}: {started}. {HELP}"


def _show(reply: Reply, catalogue: Catalogue, screen: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    screen.print(reply.prose, markup=False)
    if reply.slate:
        table = Table("", "id", "title", "why", box=None, header_style="dim", padding=(0, 2, 0, 0))
        for place, (row, reason) in enumerate(zip(reply.slate, reply.reasons, strict=True), start=1):
            table.add_row(
                str(place), escape(str(catalogue.item_ids[row])), escape(catalogue.display(row)), escape(reason)
            )
        screen.print(table)
    for note in reply.notes:
        screen.print(f"note: {note}", style="dim", markup=False)


def _show_why(turns: list[dict[str, Any]], catalogue: Catalogue, screen: Console) -> None:
    from llmrec.roles.chat_session import event_line
    from llmrec.roles.request import Request
    from llmrec.tools.base import ToolEvent

    if not turns:
        screen.print("there is no list yet", style="dim")
        return
    last = turns[-1]
    request = Request(**last["request"])
    liked = [f"like {catalogue.display(row)}" for row in request.like_titles]
    understood = [condition.text() for condition in request.conditions()] + liked
    if request.query:
        understood.append(f"words: {request.query}")
    screen.print(f"understood: {'; '.join(understood) or request.turn}", markup=False)
    for event in last["events"]:
        screen.print(f"- {event_line(ToolEvent(**event))}", markup=False)
    for row, reason in zip(last["slate"], last["reasons"], strict=True):
        screen.print(f"  {catalogue.display(row)}: {reason}", markup=False)
