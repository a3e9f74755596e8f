"""``llmrec sessions``: list the runs of a journal, and read sessions as transcripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmrec.cli.common import JsonOption, SeedOption, emit, output, run_command
from llmrec.cli.simulate import DEFAULT_JOURNAL

if TYPE_CHECKING:
    from rich.console import RenderableType

app = typer.Typer(no_args_is_help=True, add_completion=False, help="List and read the sessions of a journal.")
JournalOption = Annotated[str, typer.Option("--journal", help="SQLite file or SQLAlchemy URL.", metavar="FILE|URL")]


@app.command("list")
def list_(journal: JournalOption = DEFAULT_JOURNAL, json_output: JsonOption = False, seed: SeedOption = 0) -> None:
    """List the runs of a journal. Nothing is drawn: the seed is only repeated in the JSON."""
    with run_command():
        from llmrec.simulate.journal import Journal

        with Journal(journal, create=False) as book:
            runs = [{"run": one.run, "sessions": one.n_sessions, "settings": one.settings} for one in book.runs()]
        emit({"journal": journal, "runs": runs, "seed": seed}, json_output=json_output, render=_show_runs)


@app.command("show")
def show(
    run: Annotated[str, typer.Argument(help="Name of the run (see: llmrec sessions list).")],
    user: Annotated[str | None, typer.Option("--user", help="Only this user id.")] = None,
    policy: Annotated[str | None, typer.Option("--policy", help="Only this policy.")] = None,
    limit: Annotated[int, typer.Option("--limit", help="Most sessions to print.", min=1)] = 3,
    private: Annotated[bool, typer.Option("--private", help="Show the user's mindset too.")] = False,
    journal: JournalOption = DEFAULT_JOURNAL,
    json_output: JsonOption = False,
    seed: SeedOption = 0,
) -> None:
    """Print sessions of a run as transcripts. Nothing is drawn: the seed is only repeated in the JSON."""
    with run_command():
        from llmrec.errors import DataError
        from llmrec.simulate.journal import Journal

        with Journal(journal, create=False) as book:
            info = book.run(run)
            found = [one for one in book.sessions(run, policy=policy) if user is None or one.user_id == user]
        if not found:
            asked = ", ".join(f"{name} {value}" for name, value in (("user", user), ("policy", policy)) if value)
            raise DataError(f"run {run!r} has no session of {asked or 'any kind'}; it has {info.n_sessions} sessions")
        plain = [one.model_dump(mode="json") for one in found]
        answer = {"run": run, "sessions": plain, "private": private, "limit": limit}
        if json_output:
            answer = {"run": run, "settings": info.settings, "sessions": plain, "seed": seed}
        emit(answer, json_output=json_output, render=_show_sessions)


def _show_runs(answer: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table()
    for title in ("run", "sessions", "dataset", "users", "policies", "model"):
        table.add_column(title)
    for one in answer["runs"]:
        settings = one["settings"]
        cells = (settings["dataset"], settings["users"], ", ".join(settings["policies"]), settings["model"])
        table.add_row(one["run"], str(one["sessions"]), *map(str, cells))
    output().print(table)


def _show_sessions(answer: dict[str, Any]) -> None:
    screen = output()
    for session in answer["sessions"][: answer["limit"]]:
        for part in transcript(session, private=answer["private"]):
            screen.print(part)
    left_out = len(answer["sessions"]) - answer["limit"]
    if left_out > 0:
        screen.print(f"{left_out} more sessions; see them with --limit, --user or --policy", style="dim")


def transcript(session: dict[str, Any], *, private: bool = False) -> list[RenderableType]:
    """One session for people: each round's slate with actions, what the user said, and what the recommender did.

    Args:
        session: as `Session.model_dump` gives it.
        private: show the user's mindset after each round.
    """
    from rich.rule import Rule
    from rich.text import Text

    profile = ", ".join(str(value) for value in session["profile"].values()) or "no profile"
    head = f"user {session['user_id']} and {session['policy']} (simulated)"
    parts: list[RenderableType] = [Rule(Text(head)), Text(f"{profile}; {session['n_history']} items in the history")]
    if private:
        parts.append(Text(f"likes {', '.join(session['likes']) or '-'}; wants {', '.join(session['wants']) or '-'}"))
    for one in session["rounds"]:
        parts += _round(one, private=private)
    if session["failed"]:
        parts.append(Text(f"failed: {session['failed']}", style="red"))
    return [*parts, Text(f"ended: {session['ended']}. {session['summary']}", style="bold")]


def _round(one: dict[str, Any], *, private: bool) -> list[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"round {one['turn'] + 1}", title_justify="left")
    for column in ("shown", "why", "action"):
        table.add_column(column, overflow="fold")
    for place, title in enumerate(one["titles"]):
        reason = one["reasons"][place] if place < len(one["reasons"]) else ""
        seen = one["shown"][place] if place < len(one["shown"]) else None
        table.add_row(Text(title), Text(reason), Text(_action(seen)))
    parts: list[RenderableType] = [Text(f"recommender: {one['prose']}")] if one["prose"] else []
    parts.append(table)
    parts += [Text(f"  {_event(event)}", style="dim") for event in one["events"]]
    parts += [Text(f"  note: {note}", style="dim") for note in one["notes"]]
    if one["out_of_catalogue"]:
        parts.append(Text(f"  not in the catalogue: {one['out_of_catalogue']}", style="red"))
    if private and one["mindset"]:
        parts.append(Text("  mindset: " + ", ".join(f"{name} {value:.2f}" for name, value in one["mindset"].items())))
    if one["instruction"]:
        parts.append(Text(f'user: "{one["instruction"]["say"]}"', style="italic"))
    return parts


def _action(seen: dict[str, Any] | None) -> str:
    if seen is None:
        return ""
    return f"rate {seen['rating']}" if seen["action"] == "rate" else str(seen["action"])


def _event(event: dict[str, Any]) -> str:
    arguments = ", ".join(f"{name}={value}" for name, value in event["arguments"].items())
    outcome = f"error: {event['error']}" if event["error"] else f"{event['n_before']} to {event['n_after']} candidates"
    return f"{event['name']}({arguments}): {outcome}"
