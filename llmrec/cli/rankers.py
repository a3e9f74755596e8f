"""``llmrec rankers``: train a recommender once and keep it; chats, simulations and evaluations take its folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmrec.cli.common import (
    DatasetOption,
    JsonOption,
    SeedOption,
    console,
    emit,
    note,
    output,
    run_command,
)

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split
    from llmrec.lm.protocol import LanguageModel
    from llmrec.retrieval.base import Recommender

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Train recommenders, and say what is in a folder.")


@app.command("fit")
def fit(
    model: Annotated[str, typer.Argument(metavar="NAME", help="sasrec, generative, ease, blend, ...")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.", metavar="DIR")],
    dataset: DatasetOption = "films",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting, such as width=128 or fit.epochs=40; repeatable.", metavar="KEY=VALUE"),
    ] = None,
    parts: Annotated[
        str | None,
        typer.Option("--parts", help="What a blend is made of: names and folders, comma-separated.", metavar="LIST"),
    ] = None,
    vectors: Annotated[
        str | None,
        typer.Option(
            "--vectors", help="Item vectors for a recommender that takes them: tfidf, minilm, ...", metavar="SPEC"
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            help="Slow recommender whose lists sasrec learns too (DLLM2Rec): calrec, knn, ..., or a folder.",
            metavar="NAME|DIR",
        ),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="Language model of the teacher, or of vectors lm.", metavar="DIR")
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option("--adapter", help="LoRA folder of the recommender role.", metavar="DIR")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda; for the backbone.")] = "auto",
    json_output: JsonOption = False,
    seed: SeedOption = 0,
) -> None:
    """Fit on the training part of leave-one-out, pick on validation, and save. A killed training goes on."""
    with run_command(resume="run the same command again to go on"):
        import time

        from llmrec.cli.teaching import distil_settings, taught_by
        from llmrec.data.spec import load
        from llmrec.data.splits import leave_one_out
        from llmrec.errors import ConfigError
        from llmrec.ranking import registry
        from llmrec.ranking.distil import teacher_item_vectors
        from llmrec.ranking.progress import told

        if registry.is_saved(out):
            raise ConfigError(f"{out} holds a saved recommender already; name another folder or remove it")
        if not registry.saves(model):
            able = ", ".join(name for name in registry.names() if registry.saves(name))
            raise ConfigError(f"{model!r} keeps nothing on disk: name it as it is; these can be saved: {able}")
        values = _values(set_ or [])
        asked, distil = distil_settings(model, teacher, values)
        config = registry.settings(model, values, seed=seed)
        data = load(dataset, seed=seed)
        split = leave_one_out(data.interactions)
        options: dict[str, Any] = {} if config is None else {"config": config}
        if parts is not None:
            options["parts"] = [_part(name.strip(), data, split) for name in parts.split(",") if name.strip()]
        lm = _lm(teacher, vectors, backbone, adapter, seed=seed, device=device)
        if vectors is not None:
            made = _vectors(vectors, data, split, lm, seed)
            options["item_vectors"] = made if teacher is None else teacher_item_vectors(made, strength=distil.vectors)
        if teacher is not None:
            options["extra_loss"] = taught_by(
                teacher, lm, data, split, asked=asked, distil=distil, seed=seed, kept=out / "teacher"
            )
        if registry.resumes(model):
            options["checkpoint"] = out / "checkpoint"
        started = time.perf_counter()
        note(f"{model}: fitting on {data.name}, {len(split.train)} training events, {len(data.catalogue)} items")
        with console().status("fitting") as status:
            if registry.resumes(model):
                live = console().is_terminal
                options["report"] = told(status.update, every=0.5) if live else told(note)
            recommender: Any = registry.build(model, **options)
            recommender.fit(data, split)
        recommender.save(out)
        answer = _facts(out) | {"seconds": round(time.perf_counter() - started, 1), "note": _note(recommender)}
        emit(answer, json_output=json_output, render=_show)


@app.command("describe")
def describe(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a saved recommender.")],
    json_output: JsonOption = False,
) -> None:
    """What a folder holds: kind, settings, training, and the catalogue that it belongs to."""
    with run_command():
        emit(_facts(folder), json_output=json_output, render=_show)


def _values(texts: list[str]) -> dict[str, Any]:
    from llmrec.training.recipe import apply_setting

    values: dict[str, Any] = {}
    for text in texts:
        apply_setting(values, text)
    return values


def _part(name: str, data: Dataset, split: Split) -> Recommender:
    from llmrec.ranking import registry

    note(f"part {name}: {'loading' if registry.is_saved(name) else 'fitting'}")
    return registry.fitted(name, data, split)


def _lm(
    teacher: str | None, vectors: str | None, backbone: str | None, adapter: Path | None, *, seed: int, device: str
) -> LanguageModel | None:
    """The language model, where the teacher or the item vectors ask one.

    Raises:
        ConfigError: it is missing, or given although nothing asks it.
    """
    from llmrec.cli.asking import open_recommender_lm
    from llmrec.cli.teaching import asks_lm
    from llmrec.errors import ConfigError
    from llmrec.retrieval.item_vectors import needs_lm

    asked = [f"--teacher {teacher}"] if teacher is not None and asks_lm(teacher) else []
    asked += [f"--vectors {vectors}"] if vectors is not None and needs_lm(vectors) else []
    if asked and backbone is None:
        raise ConfigError(f"{' and '.join(asked)}: a language model is asked; name a backbone folder (--backbone DIR)")
    if not asked and (backbone is not None or adapter is not None):
        raise ConfigError("--backbone and --adapter go with a --teacher that asks a language model, or --vectors lm")
    return None if backbone is None else open_recommender_lm(backbone, adapter, seed=seed, device=device)


def _vectors(spec: str, data: Dataset, split: Split, lm: LanguageModel | None, seed: int) -> Any:
    from llmrec.retrieval.item_vectors import item_vectors
    from llmrec.running import run_sync

    return run_sync(item_vectors(spec, data, split=split, lm=lm, seed=seed)).vectors


def _facts(folder: Path) -> dict[str, Any]:
    from llmrec.ranking.saved import describe_folder

    return {"folder": str(folder), **describe_folder(folder)}


def _note(recommender: Any) -> str:
    told = getattr(recommender, "describe", None)
    return str(told()) if callable(told) else ""


def _show(answer: dict[str, Any]) -> None:
    screen = output()
    screen.print(f"{answer['kind']}: {answer['folder']}", soft_wrap=True, markup=False)
    if answer.get("note"):
        screen.print(answer["note"], soft_wrap=True, markup=False)
    for name, value in answer.items():
        if name not in ("kind", "folder", "note", "format", "training", "seconds"):
            screen.print(f"{name}: {value}", soft_wrap=True, markup=False, style="dim")
    if "seconds" in answer:
        screen.print(f"{answer['seconds']} s; use it with: --recommender, --ranker or --models {answer['folder']}")
