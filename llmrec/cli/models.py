"""``llmrec models``: list trained nanos, show a model folder, check one by using it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llmrec.cli.common import JsonOption, SeedOption, emit, note, output, run_command
from llmrec.cli.models_import import cut, import_
from llmrec.cli.models_serve import serve

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="List, check, import, cut and serve backbones and adapters."
)
app.command("import")(import_)
app.command("cut")(cut)
app.command("serve")(serve)

FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a backbone.")]


@app.command("list")
def list_(json_output: JsonOption = False, seed: SeedOption = 0) -> None:
    """Every nano in the cache, with its parameters, dataset, seed and adapters; damaged and unfinished ones too."""
    with run_command():
        from llmrec.assets import cache_dir

        folder = cache_dir() / "nano"
        models = [_listed(path) for path in sorted(folder.iterdir()) if path.is_dir()] if folder.is_dir() else []
        emit({"cache": str(folder), "models": models, "seed": seed}, json_output=json_output, render=_show_list)


@app.command("show")
def show(folder: FolderArgument, json_output: JsonOption = False, seed: SeedOption = 0) -> None:
    """Shape, parameters, content hash, how it was trained, and the adapters of a model folder."""
    with run_command():
        emit({**_described(folder), "seed": seed}, json_output=json_output, render=_show_one)


@app.command("check")
def check(
    folder: FolderArgument,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    json_output: JsonOption = False,
    seed: SeedOption = 0,
) -> None:
    """Load a backbone with all its adapters, let each generate and score a text; the first fault is told."""
    with run_command():
        import asyncio

        from llmrec.lm.adapters import AdapterStore
        from llmrec.lm.loading import load_backbone

        described = _described(folder)
        AdapterStore.load(folder).check()
        model = load_backbone(folder, seed=seed, device=device)
        answers = {}
        for name in (None, *model.capabilities.adapters):
            answers[name or "backbone"] = asyncio.run(_use(model, name, seed))
            note(f"{name or 'backbone'}: loads, generates, scores")
        emit({**described, "checked": answers, "seed": seed}, json_output=json_output, render=_show_check)


async def _use(model: Any, adapter: str | None, seed: int) -> dict[str, Any]:
    """Generate and score once.

    Raises:
        ModelError: the model gives no finite log-probability, as with damaged weights.
    """
    import math

    from llmrec.errors import ModelError
    from llmrec.lm.protocol import Sampling

    sampling = Sampling(max_tokens=8, temperature=0.0, seed=seed)
    completion = (await model.generate("Title:", sampling=sampling, adapter=adapter))[0]
    score = (await model.score("Title:", [" A"], adapter=adapter))[0]
    if not math.isfinite(completion.logprob) or not math.isfinite(score):
        raise ModelError(
            f"the {f'adapter {adapter!r}' if adapter else 'backbone'} gives no finite log-probability, "
            f"got {completion.logprob!r} and {score!r}; its weights are damaged, train it again"
        )
    return {"text": completion.text, "tokens": completion.n_tokens, "logprob": completion.logprob}


def _listed(folder: Path) -> dict[str, Any]:
    """One line of the list. A damaged model is listed with its fault, because the list is where people look for it."""
    from llmrec.errors import UserError

    row: dict[str, Any] = {"name": folder.name, "path": str(folder)}
    if folder.suffix == ".partial":
        return row | {
            "state": "unfinished",
            "fault": "still being trained, or interrupted; the same command goes on with it",
        }
    try:
        facts = _described(folder)
    except UserError as error:
        return row | {"state": "damaged", "fault": str(error)}
    training = facts["training"] or {}
    return row | {
        "state": "ready",
        "parameters": facts["parameters"],
        "tokens": training.get("tokens"),
        "dataset": training.get("dataset"),
        "trained_with_seed": training.get("seed"),
        "content_hash": facts["content_hash"],
        "adapters": sorted(facts["adapters"]),
    }


def _described(folder: Path) -> dict[str, Any]:
    """Facts of a model folder, read without loading the model.

    Raises:
        ModelNotFoundError: the folder holds no model.
        CacheError: it was trained by llmrec and is damaged.
    """
    from llmrec.lm.adapters import AdapterStore, content_hash

    digest = content_hash(folder)
    return {
        "path": str(folder),
        "content_hash": digest,
        "bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        "parameters": _parameters(folder),
        "config": _config(folder),
        "training": _training(folder),
        "adapters": {role: _adapter(where, digest) for role, where in AdapterStore.load(folder).folders().items()},
    }


def _training(folder: Path) -> dict[str, Any] | None:
    """How nano was trained, without its curve; None for a model from elsewhere.

    Raises:
        CacheError: its record is damaged.
    """
    if not (folder / "nano.json").exists():
        return None
    from llmrec.errors import CacheError
    from llmrec.training.pretrain import read_report

    report = read_report(folder)
    try:
        losses = [row["loss"] for row in report["curve"] if "loss" in row]
        missing = [name for name in ("dataset", "seed", "tokens", "seconds", "hardware") if name not in report]
    except (TypeError, KeyError) as error:
        raise CacheError(f"nano.json in {str(folder)!r} is damaged; delete that folder and train again") from error
    if missing:
        raise CacheError(f"nano.json in {str(folder)!r} lacks {missing[0]!r}; delete that folder and train again")
    return {k: v for k, v in report.items() if k != "curve"} | {"last_loss": losses[-1] if losses else None}


def _parameters(folder: Path) -> int | None:
    """Number of weights, from the headers of the safetensors files; None where there are none.

    Raises:
        CacheError: a file is damaged.
    """
    from math import prod

    from safetensors import SafetensorError, safe_open

    from llmrec.errors import CacheError

    files = sorted(folder.glob("*.safetensors"))
    count = 0
    for file in files:
        try:
            with safe_open(str(file), framework="numpy") as weights:
                count += sum(prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise CacheError(
                f"the weights in {str(file)!r} are damaged ({error}); train or fetch them again"
            ) from error
    return count if files else None


def _config(folder: Path) -> dict[str, Any]:
    """What stands in config.json about the shape.

    Raises:
        ModelNotFoundError: it is missing or unreadable.
    """
    import json

    from llmrec.errors import ModelNotFoundError

    wanted = (
        "model_type",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
        "max_position_embeddings",
    )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return {name: config[name] for name in wanted if name in config}
    except (OSError, ValueError, TypeError) as error:
        raise ModelNotFoundError(f"config.json in {str(folder)!r} cannot be read: {error}") from error


def _adapter(folder: Path, backbone_hash: str) -> dict[str, Any]:
    """What an adapter folder says about itself; `fits` is None where it does not say for which backbone it was made."""
    import json

    from llmrec.errors import ConfigError
    from llmrec.lm.adapters import read_stamp

    facts: dict[str, Any] = {"path": str(folder), "exists": folder.is_dir(), "fits": None}
    if not folder.is_dir():
        return facts
    made_for = read_stamp(folder)
    facts |= {"made_for": made_for, "fits": None if made_for is None else made_for == backbone_hash}
    record = folder / "training.json"
    if record.exists():
        try:
            training = json.loads(record.read_text(encoding="utf-8"))
            facts |= {k: training.get(k) for k in ("dataset", "n_train", "n_validation", "best", "seconds")}
        except (OSError, ValueError, AttributeError) as error:
            raise ConfigError(f"{str(record)!r} cannot be read: {error}; train the adapter again") from error
    return facts


def _show_list(answer: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    screen = output()
    if not answer["models"]:
        screen.print(f"no trained model in {answer['cache']}; train one with: llmrec quickstart", soft_wrap=True)
        return
    screen.print(answer["cache"], soft_wrap=True, markup=False)
    table = Table(box=None)
    table.add_column("name", no_wrap=True)  # people copy it
    for column in ("state", "parameters", "tokens", "dataset", "seed", "adapters"):
        table.add_column(
            column, no_wrap=column != "adapters", justify="right" if column in ("parameters", "tokens") else "left"
        )
    for row in answer["models"]:
        if row["state"] == "ready":
            numbers = [_millions(row["parameters"]), _millions(row["tokens"])]
            texts = [row["dataset"] or "-", str(row["trained_with_seed"]), ", ".join(row["adapters"]) or "none"]
            table.add_row(row["name"], "ready", *numbers, *(escape(text) for text in texts))
        else:
            table.add_row(escape(row["name"].removesuffix(".partial")), row["state"])
    screen.print(table)
    for row in answer["models"]:
        if row["state"] != "ready":
            screen.print(f"{row['name']}: {row['fault']}", soft_wrap=True, markup=False)


def _show_one(answer: dict[str, Any]) -> None:
    screen = output()
    screen.print(answer["path"], soft_wrap=True, markup=False)
    for line in _lines(answer):
        screen.print(f"  {line}", soft_wrap=True, markup=False)


def _show_check(answer: dict[str, Any]) -> None:
    _show_one(answer)
    for name, one in answer["checked"].items():
        output().print(f"  {name}: fine; after 'Title:' it writes {one['text']!r}", soft_wrap=True, markup=False)


def _lines(answer: dict[str, Any]) -> list[str]:
    config = ", ".join(f"{name} {value}" for name, value in answer["config"].items())
    lines = [
        f"parameters: {_count(answer['parameters'])} ({answer['bytes'] / 2**20:.1f} MiB on disk)",
        f"shape: {config}",
        f"content hash: {answer['content_hash']}",
    ]
    training = answer["training"]
    if training:
        lines.append(
            f"trained on {training['dataset']}, seed {training['seed']}: {_count(training['tokens'])} tokens in "
            f"{training['seconds']:.0f} s, last loss {_loss(training['last_loss'])} ({training['hardware']})"
        )
    if not answer["adapters"]:
        lines.append("adapters: none")
    fitness = {True: "made for this backbone", False: "MADE FOR ANOTHER BACKBONE", None: "does not say its backbone"}
    for role, one in answer["adapters"].items():
        state = fitness[one["fits"]] if one["exists"] else "ITS FOLDER IS MISSING"
        best = f", validation loss {one['best']:.4f}" if one.get("best") is not None else ""
        lines.append(f"adapter {role}: {one['path']}, {state}{best}")
    return lines


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _millions(value: float | None) -> str:
    return "-" if value is None else f"{value / 1e6:.2f} M"


def _loss(value: float | None) -> str:
    return "not recorded" if value is None else f"{value:.4f} nats per token"
