"""``llmrec quickstart``: the main job from data to report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llmrec.cli.common import DatasetOption, JsonOption, SeedOption, emit, note, output, progress, run_command

app = typer.Typer(add_completion=False)


@app.command()
def quickstart(
    dataset: DatasetOption = "films",
    out: Annotated[Path, typer.Option("--out", help="Folder for models, sessions and report.", metavar="DIR")] = Path(
        "runs/quickstart"
    ),
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Sizes; default eval/quickstart.yaml or quickstart-real.yaml.", metavar="FILE"),
    ] = None,
    json_output: JsonOption = False,
    seed: SeedOption = 0,
) -> None:
    """Train nano, fine-tune its roles, evaluate, simulate, report. A killed run goes on when it is started again."""
    with run_command(resume="run the same command again to go on"):
        from llmrec.benchmark.quickstart import quickstart as run
        from llmrec.benchmark.quickstart_config import load_config
        from llmrec.errors import EnvironmentFailure

        results = run(dataset, load_config(config, spec=dataset), out=out, seed=seed, say=note, bar=progress)
        emit(results, json_output=json_output, render=lambda found: _show(found, out))
        if faults := _faults(results):
            raise EnvironmentFailure(f"the job ran, but {'; '.join(faults)}; see {out / 'report.html'}")


def _faults(results: dict[str, Any]) -> list[str]:
    """What must not happen in a job that is called done."""
    outside = results["out_of_catalogue"]
    policies = results["simulation"]["policies"]
    faults = [f"all sessions of {name} failed" for name, row in policies.items() if row["failed"] == row["n"]]
    if outside["count"]:
        faults.append(f"{outside['count']} shown items or titles are not in the catalogue")
    if not outside["planted_caught"]:
        faults.append("the check for items outside the catalogue missed a planted one")
    failed = results["evaluation"]["failed"]
    faults += [
        f"{name} failed for every user" for name, row in failed.items() if row["users"] == results["evaluation"]["n"]
    ]
    return faults


def _show(results: dict[str, Any], out: Path) -> None:
    from rich.table import Table

    screen = output()
    evaluation = results["evaluation"]
    table = Table(title=f"{evaluation['protocol']}", title_justify="left")
    for title in ("model", "recall@10", "ndcg@10"):
        table.add_column(title)
    for name, metrics in evaluation["models"].items():
        table.add_row(name, _cell(metrics["recall@10"]), _cell(metrics["ndcg@10"]))
    screen.print(table)
    clicks = results["fidelity"]["model"]["accuracy"]
    screen.print(
        f"simulated user, clicks on held-out items (1 taken : 1 not): accuracy {_cell(clicks)}; constants .5000"
    )
    sessions = Table(title="simulated sessions", title_justify="left")
    for title in ("policy", "n", "rounds", "clicks", "failed"):
        sessions.add_column(title)
    for name, row in results["simulation"]["policies"].items():
        sessions.add_row(name, str(row["n"]), _cell(row["rounds"], 2), _cell(row["clicks"], 2), str(row["failed"]))
    screen.print(sessions)
    outside = results["out_of_catalogue"]
    planted = "was found" if outside["planted_caught"] else "was NOT found"
    screen.print(
        f"items outside the catalogue: {outside['count']} of {outside['checked']} checked (a planted one {planted})"
    )
    screen.print(
        f"{results['total_seconds']:.0f} s, peak memory {results['peak_mib']} MiB; {out / 'report.html'}",
        soft_wrap=True,
    )
    screen.print(
        f"talk to it: llmrec chat --dataset {results['dataset']['spec']} --backbone {out / 'backbone'}", soft_wrap=True
    )


def _cell(interval: dict[str, float | None], digits: int = 4) -> str:
    low, high = interval["low"], interval["high"]
    value = f"{interval['value']:.{digits}f}"
    return value if low is None or high is None else f"{value} [{low:.{digits}f}, {high:.{digits}f}]"
