"""``llmrec data``: describe a dataset, download one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llmrec.cli.common import JsonOption, SeedOption, StrictOption, console, emit, note, output, progress, run_command

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Describe a dataset, or download one.")

SpecArgument = Annotated[str, typer.Argument(metavar="SPEC", help="films, movielens:PATH, amazon:PATH or table:PATH.")]


@app.command("describe")
def describe(
    spec: SpecArgument,
    rows: Annotated[int, typer.Option("--rows", help="Sample items and histories to show.", min=0)] = 3,
    strict: StrictOption = False,
    json_output: JsonOption = False,
    seed: SeedOption = 0,
) -> None:
    """Counts, sparsity, time span, history lengths, gaps, duplicate titles, sample rows, and every rejected row."""
    with run_command():
        from llmrec.data.describe import describe as summarise
        from llmrec.data.spec import load

        summary = summarise(load(spec, seed=seed, strict=strict), rows=rows)
        emit({**summary, "seed": seed}, json_output=json_output, render=_show)


@app.command("download")
def download(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as movielens-1m.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the file.", metavar="DIR")],
    json_output: JsonOption = False,
    seed: SeedOption = 0,
) -> None:
    """Fetch a dataset from its official address, with checksum; a broken download goes on where it stopped."""
    with run_command(resume="run the same command again to go on"):
        from llmrec.data.download import fetch, source

        wanted = source(name)
        note(wanted.licence)
        with progress(f"downloading {wanted.url}", wanted.n_bytes) as advance:
            path = fetch(wanted, out, advance=advance)
        answer = {"name": name, "path": str(path), "spec": f"{wanted.kind}:{path}", "bytes": path.stat().st_size}
        emit({**answer, "licence": wanted.licence, "seed": seed}, json_output=json_output, render=_show_download)


def _show_download(answer: dict[str, Any]) -> None:
    screen = output()
    screen.print(f"{answer['path']}: {answer['bytes']} bytes, checksum as published", soft_wrap=True)
    screen.print(f"use it as: llmrec data describe {answer['spec']}", soft_wrap=True)


def _show(summary: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    screen = output()
    screen.print(f"[bold]{escape(summary['name'])}[/bold] ({escape(summary['dataset'])})", soft_wrap=True)
    table = Table(show_header=False, box=None)
    for label, value in _facts(summary):
        table.add_row(label, escape(value))
    screen.print(table)
    for title, lines in _samples(summary):
        screen.print(f"\n[bold]{title}[/bold]")
        for line in lines:
            screen.print(f"  {escape(line)}", soft_wrap=True)
    _show_rejected(summary)


def _facts(summary: dict[str, Any]) -> list[tuple[str, str]]:
    time, lengths, twice = summary["time"], summary["history_lengths"], summary["duplicate_titles"]
    span = "order only" if time["order_only"] else f"{time['first']} to {time['last']} ({time['days']} days)"
    quantiles = f"min {lengths['q0']:g}, median {lengths['q50']:g}, 90 % {lengths['q90']:g}, max {lengths['q100']:g}"
    facts = [
        ("users", f"{summary['n_users']:,}"),
        ("items", f"{summary['n_items']:,} ({summary['n_items_without_interactions']:,} without interactions)"),
        ("interactions", f"{summary['n_interactions']:,}"),
        ("sparsity", f"{summary['sparsity']:.4%}"),
        ("time", f"{span}; ties: {time['tie_rule']}"),
        ("history length", f"mean {lengths['mean']:.1f}; {quantiles}"),
        ("ratings", _ratings(summary)),
        ("missing titles", f"{summary['missing_titles']:,}"),
        ("duplicate titles", f"{twice['n_titles']:,} titles on {twice['n_items']:,} items {_examples(twice)}"),
        ("licence", summary["licence"] or "not stated"),
    ]
    for name, info in summary["attributes"].items():
        common = f", {info['distinct']:,} values: {', '.join(info['most_frequent'])}" if "distinct" in info else ""
        span = f", {info['min']:.10g} to {info['max']:.10g}" if "min" in info else ""
        facts.append((f"attribute {name}", f"{info['kind']}, {info['missing']:,} missing{common}{span}"))
    return facts


def _ratings(summary: dict[str, Any]) -> str:
    if not summary["has_ratings"]:
        return "none"
    counts = summary["rating_counts"]
    return "yes" if counts is None else ", ".join(f"{value}: {count:,}" for value, count in counts.items())


def _examples(twice: dict[str, Any]) -> str:
    return f"({'; '.join(title[:60] for title in twice['examples'])})" if twice["examples"] else ""


def _samples(summary: dict[str, Any]) -> list[tuple[str, list[str]]]:
    histories = [
        f"user {row['user_id']} {row['attributes'] or ''}: {row['n']} events, {' | '.join(row['first_items'])}"
        for row in summary["sample_histories"]
    ]
    samples = [("items as text", summary["sample_flat"]), ("histories, oldest first", histories)]
    return [(title, lines) for title, lines in [*samples, ("notes", summary["notes"])] if lines]


def _show_rejected(summary: dict[str, Any]) -> None:
    from rich.markup import escape

    screen = output()
    if not summary["n_rejected"]:
        screen.print("\nno row was rejected")
        return
    screen.print(f"\n[bold]{summary['n_rejected']:,} rejected rows[/bold]")
    for row in summary["rejected"]:
        screen.print(escape(f"  {row['source']}:{row['line']}: {row['reason']}: {row['text']}"), soft_wrap=True)
    console().print("rejected rows are left out; --strict stops at the first", style="dim")
