"""``llmrec evaluate``: recommenders on held-out users, with floors and confidence intervals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmrec.cli.common import (
    DatasetOption,
    JsonOption,
    SeedOption,
    StrictOption,
    console,
    emit,
    note,
    output,
    progress,
    run_command,
)

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split
    from llmrec.retrieval.base import Recommender

app = typer.Typer(add_completion=False)
_USUAL_CUTOFF = 10
_BLEND = "blend"
_NO_PARTS = ("popular", "random")  # floors: nothing to blend


@app.command()
def evaluate(
    dataset: DatasetOption = "films",
    models: Annotated[
        str,
        typer.Option(
            "--models",
            help="Comma-separated: popular, random, knn, bm25-lastitem, dense, calrec, sasrec, ... or saved ones "
            "(llmrec rankers fit) as FOLDER or NAME=FOLDER.",
        ),
    ] = "popular,knn,bm25-lastitem",
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="Language model for calrec: folder or hub id.", metavar="DIR")
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option("--adapter", help="LoRA folder of the recommender role for calrec.", metavar="DIR")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", help="Completions per user of calrec.", min=1)] = 32,
    temperature: Annotated[float, typer.Option("--temperature", help="Of these completions.", min=0)] = 0.5,
    inline: Annotated[
        bool, typer.Option("--inline", help="End calrec's prompts on the cue's line: for models not trained on them.")
    ] = False,
    users: Annotated[int | None, typer.Option("--users", help="Size of the user sample; default all.", min=1)] = None,
    stage: Annotated[str, typer.Option("--stage", help="validation or test.")] = "test",
    split: Annotated[
        str, typer.Option("--split", help="leave-one-out (each user's last items) or temporal (one cut for all users).")
    ] = "leave-one-out",
    k_core: Annotated[
        int, typer.Option("--k-core", help="Keep users and items with at least so many events.", min=0)
    ] = 0,
    ks: Annotated[str, typer.Option("--ks", help="Cut-offs, comma-separated.")] = "1,5,10,20",
    against: Annotated[
        str, typer.Option("--against", help="Model of the table that the paired differences are against.")
    ] = "popular",
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda; for the backbone.")] = "auto",
    strict: StrictOption = False,
    json_output: JsonOption = False,
    seed: SeedOption = 0,
) -> None:
    """Rank the whole catalogue for held-out users: recall, NDCG, MRR, coverage, with confidence intervals."""
    with run_command():
        import asyncio

        from llmrec.benchmark.protocol import evaluate as run
        from llmrec.benchmark.protocol import steps
        from llmrec.data.spec import load
        from llmrec.ranking.registry import load as load_saved

        asked, added = _with_floors(models)
        _check_against(against, list(asked))
        cutoffs = _cutoffs(ks)
        _check_stage(stage)
        _check_split(split)
        fresh = [name for name, folder in asked.items() if folder is None]
        recommenders = _build(
            fresh, backbone, adapter, seed, device, {"samples": samples, "temperature": temperature, "inline": inline}
        )
        if added:
            note(f"added to the table as floors: {', '.join(added)}")
        data = load(dataset, seed=seed, strict=strict)
        if data.rejected:
            note(f"{len(data.rejected)} rows were rejected; see them with: llmrec data describe {dataset}")
        data, parts = _protocol(data, split, k_core)
        saved = {name: load_saved(folder, data, split=parts) for name, folder in asked.items() if folder is not None}
        recommenders = {name: (recommenders | saved)[name] for name in asked if name in recommenders or name in saved}
        if _BLEND in fresh:
            recommenders[_BLEND] = _blend(recommenders)
        with progress("evaluating", None if users is None else users * len(asked)) as advance:
            result = asyncio.run(
                run(
                    data,
                    recommenders,
                    n_users=users,
                    stage="validation" if stage == "validation" else "test",
                    seed=seed,
                    ks=cutoffs,
                    split=parts,
                    floor=against,
                    fit=fresh,
                    progress=steps(advance),
                )
            )
        emit(result.to_json(), json_output=json_output, render=_show)


def _with_floors(models: str) -> tuple[dict[str, Path | None], list[str]]:
    """What was asked for, floors first where they were left out; and which were added.

    Names in the table with their folders, None for what is trained now; in the order asked for, but for a blend, whose
    parts are fitted before it.
    """
    from llmrec.benchmark.protocol import FLOORS
    from llmrec.errors import ConfigError
    from llmrec.ranking.registry import names as registered

    asked: dict[str, Path | None] = {}
    for text in (part.strip() for part in models.split(",")):
        if not text:
            continue
        name, folder = _named(text)
        if name in FLOORS and folder is not None:
            raise ConfigError(f"{name!r} is a floor of every table, got {text!r}; give the saved one another name")
        if asked.setdefault(name, folder) != folder:
            raise ConfigError(f"--models names two recommenders {name!r}; give the saved one another: NAME={folder}")
    if not asked:
        raise ConfigError(f"--models names no recommender, got {models!r}; choose from {', '.join(registered())}")
    added = [name for name in FLOORS if name not in asked]
    with_floors = dict.fromkeys(added) | asked
    return dict(sorted(with_floors.items(), key=lambda one: one == (_BLEND, None))), added


def _named(text: str) -> tuple[str, Path | None]:
    """NAME of the registry, FOLDER or NAME=FOLDER of a saved recommender: its name in the table, and its folder."""
    from llmrec.errors import ConfigError
    from llmrec.ranking.registry import is_saved, names

    if text in names():
        return text, None
    if is_saved(text):
        return text, Path(text)
    name, equals, folder = text.partition("=")
    if equals and name.strip() and is_saved(folder.strip()):
        return name.strip(), Path(folder.strip())
    if equals:
        raise ConfigError(f"{folder!r} holds no saved recommender, got --models {text!r}; make one: llmrec rankers fit")
    raise ConfigError(
        f"no recommender is called {text!r}; choose from {', '.join(names())}, or name the folder of a saved one"
    )


def _cutoffs(ks: str) -> list[int]:
    from llmrec.errors import ConfigError

    try:
        numbers = [int(k) for k in ks.split(",")]
    except ValueError as error:
        raise ConfigError(f"--ks takes whole numbers separated by commas, got {ks!r}") from error
    if min(numbers) < 1:
        raise ConfigError(f"--ks takes numbers of at least 1, got {ks!r}")
    return numbers


def _check_stage(stage: str) -> None:
    from llmrec.errors import ConfigError

    if stage not in ("validation", "test"):
        raise ConfigError(f"--stage must be validation or test, got {stage!r}")


def _check_split(split: str) -> None:
    from llmrec.errors import ConfigError

    if split not in ("leave-one-out", "temporal"):
        raise ConfigError(f"--split must be leave-one-out or temporal, got {split!r}")


def _check_against(against: str, asked: list[str]) -> None:
    from llmrec.errors import ConfigError

    if against not in asked:
        raise ConfigError(f"--against takes a model of the table ({', '.join(asked)}), got {against!r}")


def _protocol(data: Dataset, split: str, k_core: int) -> tuple[Dataset, Split]:
    """The k-core of a dataset, and its split; the protocol line of the answer names both."""
    from dataclasses import replace

    from llmrec.data import splits
    from llmrec.data.dataset import compact

    if k_core:
        data = compact(data, splits.k_core(data.interactions, k_core))
    cut = splits.leave_one_out if split == "leave-one-out" else splits.global_temporal
    parts = cut(data.interactions)
    return data, replace(parts, protocol=f"{k_core}-core, {parts.protocol}") if k_core else parts


def _blend(others: dict[str, Recommender]) -> Recommender:
    """A blend of those beside it that say something of their own and ask no language model."""
    from llmrec.errors import ConfigError
    from llmrec.ranking.blend import BlendRecommender
    from llmrec.ranking.registry import build, names, needs_backbone

    parts = [
        one
        for name, one in others.items()
        if name not in (_BLEND, *_NO_PARTS)
        and not isinstance(one, BlendRecommender)
        and not (name in names() and needs_backbone(name))
    ]
    if len(parts) < 2:
        raise ConfigError("a blend is made of the other models that --models names; name two or more beside it")
    note(f"blend: of {', '.join(part.name for part in parts)}, weighted on validation users")
    return build(_BLEND, parts=parts)


def _build(
    names: list[str], backbone: str | None, adapter: Path | None, seed: int, device: str, sampling: dict[str, Any]
) -> dict[str, Recommender]:
    """Recommenders by name, all but a blend; the backbone is loaded once, and only for those that ask it."""
    from llmrec.cli.asking import asking_recommenders, open_recommender_lm
    from llmrec.errors import ConfigError
    from llmrec.ranking.registry import build, needs_backbone

    plain = [name for name in names if name != _BLEND and not needs_backbone(name)]
    asking = [name for name in names if needs_backbone(name)]
    made = {name: build(name) for name in plain}
    if backbone is not None and asking:
        lm = open_recommender_lm(backbone, adapter, seed=seed, device=device)
        made |= asking_recommenders(asking, lm, sampling=sampling)
    elif adapter is not None:
        raise ConfigError("--adapter belongs to calrec and its kin: name one in --models and give its --backbone")
    elif asking:
        build(asking[0])  # says what is missing
    return made


def _show(result: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    ks = result["ks"]
    k = _USUAL_CUTOFF if _USUAL_CUTOFF in ks else ks[-1]
    caption = f"{result['dataset']}, {result['stage']}, n = {result['n']}, seed {result['seed']}"
    shown = list(dict.fromkeys([f"recall@{ks[0]}", f"recall@{k}", f"ndcg@{k}", "mrr", f"coverage@{k}"]))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=caption)
    table.add_column("model", overflow="fold", min_width=12)  # figures stay whole beside a long path
    for metric in shown:
        table.add_column(metric.replace("coverage", "cov"), justify="right", no_wrap=True)
    table.add_column("s", justify="right")
    for name, row in result["models"].items():
        seconds = sum(result["seconds"][name].values())
        table.add_row(name, *(_cell(row[metric], "\n") for metric in shown), f"{seconds:.1f}")
    screen = output()
    screen.print(table)
    for name, differences in result["paired"]["models"].items():
        cell = _cell(differences[f"ndcg@{k}"], " ", sign="+")
        screen.print(f"{name} minus {result['paired']['against']}, ndcg@{k}: {cell}", soft_wrap=True, markup=False)
    for name, failed in result["failed"].items():
        if failed["users"]:
            reasons = "; ".join(failed["reasons"])
            screen.print(f"{name} failed for {failed['users']} users: {reasons}", markup=False)
    for name, text in result["notes"].items():
        screen.print(f"{name}: {text}", soft_wrap=True, markup=False)
    console().print(result["protocol"], style="dim", soft_wrap=True, markup=False)


def _cell(interval: dict[str, float | None], gap: str, sign: str = "") -> str:
    value, low, high = interval["value"], interval["low"], interval["high"]
    if value is None or low is None or high is None:
        return "" if value is None else f"{value:{sign}.4f}"
    bounds = [f"{bound:{sign}.3f}".replace("0.", ".", 1) for bound in (low, high)]
    return f"{value:{sign}.4f}{gap}{(' to ' if sign else '–').join(bounds)}"
