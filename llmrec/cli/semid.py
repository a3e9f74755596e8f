"""``llmrec semid``: build semantic ids of a catalogue, report on them, encode an item that came later."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmrec.cli.common import DatasetOption, JsonOption, SeedOption, emit, note, output, run_command
from llmrec.plain import to_plain

if TYPE_CHECKING:
    from llmrec.lm.protocol import LanguageModel
    from llmrec.semid.quantiser import QuantiserConfig

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Build semantic ids, report on them, encode new items."
)

FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of semantic ids.")]
BackboneOption = Annotated[
    str | None, typer.Option("--backbone", help="Language model of the vectors lm.", metavar="SPEC")
]
CategoryOption = Annotated[
    str | None, typer.Option("--category", help="Attribute with categories; default categories or genres.")
]


@app.command("build")
def build(
    dataset: DatasetOption,
    out: Annotated[Path, typer.Option("--out", help="Folder to write; it must not exist.", metavar="DIR")],
    vectors: Annotated[
        str,
        typer.Option(
            "--vectors", help="tfidf, minilm, sentence:ID, lm, cf, file:PATH, or a fusion such as 2*minilm+cf."
        ),
    ] = "tfidf",
    quantiser: Annotated[
        str, typer.Option("--quantiser", help="kmeans, balanced, rqvae; as floors lsh, random.")
    ] = "kmeans",
    levels: Annotated[
        str, typer.Option("--levels", help="Codes per level, such as 256,256,256; auto suits the catalogue.")
    ] = "auto",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="Further setting of the quantiser, such as steps=500; repeatable.", metavar="K=V"),
    ] = None,
    dimensions: Annotated[int, typer.Option("--dimensions", help="Size of tfidf and cf vectors.", min=1)] = 128,
    pca: Annotated[int | None, typer.Option("--pca", help="Reduce the vectors to this size.", min=1)] = None,
    collision_size: Annotated[
        int | None, typer.Option("--collision-size", help="Codes of the last level; default the largest level.", min=1)
    ] = None,
    category: CategoryOption = None,
    backbone: BackboneOption = None,
    device: Annotated[str, typer.Option("--device", help="Of the backbone: auto, cpu or cuda.")] = "auto",
    json_output: JsonOption = False,
    seed: SeedOption = 0,
) -> None:
    """Make item vectors, quantise them, save the ids, and report on them."""
    with run_command():
        import asyncio
        import time

        from llmrec.data.spec import load
        from llmrec.errors import ConfigError
        from llmrec.retrieval.item_vectors import ItemVectorConfig
        from llmrec.retrieval.semantic import semantic_ids
        from llmrec.semid.categories import category_attribute
        from llmrec.semid.report import report as measure

        if out.exists():
            raise ConfigError(f"--out must be a new folder, got {str(out)!r}, which exists; name another or delete it")
        data = load(dataset, seed=seed)
        config = _config(quantiser, levels, setting or [], len(data.catalogue))
        category_attribute(data.catalogue, category)  # a wrong name is told before the work, not after it
        lm = _backbone(vectors, backbone, seed, device)
        note(f"{data.name}: {len(data.catalogue)} items, vectors {vectors}, quantiser {quantiser} {config.levels}")
        start = time.perf_counter()
        made = semantic_ids(
            data,
            vectors=vectors,
            config=config,
            vector_config=ItemVectorConfig(dimensions=dimensions, pca=pca),
            lm=lm,
            category=category,
            collision_size=collision_size,
            seed=seed,
        )
        ids = asyncio.run(made)
        ids.save(out)
        seconds = round(time.perf_counter() - start, 2)
        facts = measure(ids, data.catalogue, category=category, seed=seed)
        answer = {"path": str(out), "dataset": dataset, "seconds": seconds, "facts": dict(ids.facts), "seed": seed}
        emit({**answer, "report": to_plain(facts), "lines": facts.lines()}, json_output=json_output, render=_show_build)


@app.command("report")
def report(
    folder: FolderArgument,
    dataset: DatasetOption,
    category: CategoryOption = None,
    json_output: JsonOption = False,
    seed: SeedOption = 0,
) -> None:
    """Use of codes, collisions, purity against categories, variance left; refused for another catalogue."""
    with run_command():
        from llmrec.data.spec import load
        from llmrec.semid.codes import SemanticIds
        from llmrec.semid.report import report as measure

        catalogue = load(dataset, seed=seed).catalogue
        facts = measure(SemanticIds.load(folder, catalogue), catalogue, category=category, seed=seed)
        answer = {"path": str(folder), "dataset": dataset, "seed": seed, "report": to_plain(facts)}
        emit({**answer, "lines": facts.lines()}, json_output=json_output, render=_show_report)


@app.command("encode")
def encode(
    folder: FolderArgument,
    text: Annotated[str, typer.Option("--text", help="Title and attributes of an item that is not in the catalogue.")],
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Name the nearest items by title, not by row.", metavar="SPEC")
    ] = None,
    n: Annotated[int, typer.Option("-n", help="Nearest items to show.", min=1)] = 10,
    backbone: BackboneOption = None,
    device: Annotated[str, typer.Option("--device", help="Of the backbone: auto, cpu or cuda.")] = "auto",
    json_output: JsonOption = False,
    seed: SeedOption = 0,
) -> None:
    """Codes for a new item from its text, and the items that share the longest prefix with it."""
    with run_command():
        import asyncio

        from llmrec.data.spec import load
        from llmrec.errors import ConfigError
        from llmrec.retrieval.semantic import encode_texts
        from llmrec.semid.codes import SemanticIds

        if not text.strip():
            raise ConfigError(f"--text must hold words, got {text!r}; give the title and attributes of the item")
        catalogue = None if dataset is None else load(dataset, seed=seed).catalogue
        ids = SemanticIds.load(folder, catalogue)
        lm = None if ids.encoder is None else _backbone(ids.encoder.spec, backbone, seed, device)
        codes = asyncio.run(encode_texts(ids, [text], lm=lm))[0].tolist()
        nearest: list[dict[str, Any]] = [
            {"row": row, "shared": shared, "codes": list(ids.code_of(row))}
            | ({} if catalogue is None else {"item_id": catalogue.item_ids[row], "title": catalogue.display(row)})
            for row, shared in ids.nearest_by_prefix(codes[:-1], n)
        ]
        answer = {"path": str(folder), "text": text, "codes": codes, "nearest": nearest, "seed": seed}
        emit(answer, json_output=json_output, render=_show_encode)


@app.command("extend")
def extend(
    backbone: Annotated[Path, typer.Argument(metavar="BACKBONE", help="Model folder without id tokens.")],
    folder: FolderArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder to write; it must not exist.", metavar="DIR")],
    json_output: JsonOption = False,
    seed: SeedOption = 0,
) -> None:
    """Give a backbone a token for each code; a recipe then trains them (finetune/semantic_ids.yaml does both)."""
    with run_command():
        from llmrec.semid.codes import SemanticIds
        from llmrec.semid.tokens import extend_backbone

        record = extend_backbone(backbone, out, SemanticIds.load(folder), seed=seed)
        emit({"path": str(out), **record}, json_output=json_output, render=_show_facts)


@app.command("bake")
def bake(
    backbone: Annotated[Path, typer.Argument(metavar="BACKBONE", help="Backbone with id tokens.")],
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="Adapter that trained them.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; it must not exist.", metavar="DIR")],
    role: Annotated[str, typer.Option("--role", help="Name of the adapter in the new folder.")] = "semantic",
    json_output: JsonOption = False,
) -> None:
    """Move trained rows into the backbone, for engines that take plain LoRA alone (vLLM, llama.cpp)."""
    with run_command():
        from llmrec.semid.tokens import bake_rows

        bake_rows(backbone, adapter, out, role=role)
        emit({"path": str(out), "role": role}, json_output=json_output, render=_show_facts)


def _config(kind: str, levels: str, settings: list[str], n_items: int) -> QuantiserConfig:
    """Settings of the quantiser from options.

    Raises:
        ConfigError: a malformed option.
    """
    import json

    from llmrec.errors import ConfigError
    from llmrec.semid.base import default_levels
    from llmrec.semid.quantiser import quantiser_config

    if levels == "auto":
        sizes = default_levels(n_items)
    else:
        try:
            sizes = tuple(int(part) for part in levels.split(","))
        except ValueError as error:
            raise ConfigError(f"--levels must be numbers such as 256,256,256, or auto, got {levels!r}") from error
    further: dict[str, Any] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set must be NAME=VALUE, such as steps=500, got {text!r}")
        try:
            further[name.strip()] = json.loads(value)
        except ValueError:
            further[name.strip()] = value  # a word, such as standardise=whole
    return quantiser_config(kind, levels=sizes, **further)


def _backbone(vectors: str, backbone: str | None, seed: int, device: str) -> LanguageModel | None:
    """The language model where the vectors ask one.

    Raises:
        ConfigError: it is missing, or given for vectors that ask none.
    """
    from llmrec.errors import ConfigError
    from llmrec.retrieval.item_vectors import needs_lm

    if needs_lm(vectors) != (backbone is not None):
        raise ConfigError(f"--backbone goes with the vectors lm, got the vectors {vectors!r} and backbone {backbone!r}")
    if backbone is None:
        return None
    from llmrec.lm.loading import load_backbone

    return load_backbone(backbone, seed=seed, device=device)


def _show_facts(answer: dict[str, Any]) -> None:
    for name, value in answer.items():
        output().print(f"{name}: {value}", soft_wrap=True, markup=False)


def _show_build(answer: dict[str, Any]) -> None:
    _show_report(answer)
    screen = output()
    screen.print(f"vectors: {answer['facts']['vectors']}", soft_wrap=True, markup=False)
    screen.print(f"made in {answer['seconds']} s with seed {answer['seed']}", soft_wrap=True, markup=False)


def _show_report(answer: dict[str, Any]) -> None:
    screen = output()
    screen.print(answer["path"], soft_wrap=True, markup=False)
    for line in answer["lines"]:
        screen.print(f"  {line}", soft_wrap=True, markup=False)


def _show_encode(answer: dict[str, Any]) -> None:
    screen = output()
    screen.print(f"codes: {' '.join(map(str, answer['codes']))}", soft_wrap=True, markup=False)
    if not answer["nearest"]:
        screen.print("no item of the catalogue shares its first code", soft_wrap=True, markup=False)
    for item in answer["nearest"]:
        name = item.get("title", f"row {item['row']}")
        codes = " ".join(map(str, item["codes"]))
        screen.print(f"  {item['shared']} shared: {name} ({codes})", soft_wrap=True, markup=False)
