"""``llmrec models import`` and ``cut``: model folders out of GGUF files, with all of the vocabulary or a part."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmrec.cli.common import JsonOption, SeedOption, emit, note, output, run_command

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset

OutOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to make.")]
KeepOption = Annotated[
    list[str],
    typer.Option(
        "--keep-vocab-of",
        metavar="DATASET",
        help="Keep only the tokens that this dataset and the prompts use (may be repeated).",
    ),
]


def import_(
    out: OutOption,
    file: Annotated[Path | None, typer.Argument(metavar="FILE.gguf", help="File to import.")] = None,
    package: Annotated[str, typer.Option("--package", help="Packaged model to import instead of a file.")] = "",
    sha256: Annotated[str, typer.Option("--sha256", help="Checksum that the file must have.")] = "",
    licence: Annotated[
        list[Path] | None, typer.Option("--licence", metavar="FILE", help="Licence text to copy beside the weights.")
    ] = None,
    keep_vocab_of: KeepOption = [],  # noqa: B006 - typer reads it, nobody writes it
    json_output: JsonOption = False,
    seed: SeedOption = 0,
) -> None:
    """Turn a GGUF file into an ordinary Hugging Face folder: bf16 weights, tokenizer, licence."""
    with run_command():
        from llmrec.lm.gguf import import_gguf

        out = _free(out)
        datasets = _loaded(keep_vocab_of, seed)  # before minutes of work: a misspelt name must fail in a second
        source, expected, licences, terms = _source(file, package, sha256, licence or [])
        whole = out.with_name(out.name + ".whole") if keep_vocab_of else out
        record = import_gguf(source, whole, expected_sha256=expected, licence_files=licences, say=note)
        answer = {"path": str(out), **record, "seed": seed}
        if terms:
            answer["licence"] = terms
        if keep_vocab_of:
            answer |= {"keep_vocab_of": keep_vocab_of, **_cut_and_forget(whole, out, datasets, seed)}
        emit(answer, json_output=json_output, render=_show)


def cut(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a backbone with a BPE tokenizer.")],
    keep_vocab_of: KeepOption,
    out: OutOption,
    json_output: JsonOption = False,
    seed: SeedOption = 0,
) -> None:
    """Write a model folder with only the tokens that datasets and prompts use: small and fast on a CPU."""
    with run_command():
        from llmrec.lm.adapters import content_hash

        out = _free(out)
        answer = {"path": str(out), "source": str(folder), "source_hash": content_hash(folder), "seed": seed}
        cut_to = _cut(folder, out, _loaded(keep_vocab_of, seed), seed)
        emit(answer | {"keep_vocab_of": keep_vocab_of, **cut_to}, json_output=json_output, render=_show)


def _source(
    file: Path | None, package: str, sha256: str, licences: list[Path]
) -> tuple[Path, str | None, list[Path], str | None]:
    """The file to import, its checksum, licence texts, and the licence in one line."""
    from llmrec.errors import ConfigError
    from llmrec.lm import packaged

    for text in licences:
        if not text.is_file():
            raise ConfigError(f"there is no licence file, got {str(text)!r}")
    if package and sha256:
        raise ConfigError("a packaged model brings its own checksum; leave --sha256 out")
    source = gguf_file(file, package)
    if not package:
        return source, sha256 or None, licences, None
    known = packaged.find(package)
    return source, known.sha256, [*packaged.licences(known), *licences], known.licence


def gguf_file(file: Path | None, package: str) -> Path:
    """The file that was named, or the joined file of a packaged model.

    Raises:
        ConfigError: both were named, or neither.
    """
    from llmrec.errors import ConfigError
    from llmrec.lm import packaged

    if file is not None and not package:
        return file
    if package and file is None:
        return packaged.unpack(packaged.find(package), say=note)
    raise ConfigError(
        f"name either a GGUF file or --package, got {'both' if package else 'neither'}; "
        f"packages: {', '.join(packaged.KNOWN)}"
    )


def _free(out: Path) -> Path:
    """The output folder as a full path.

    Raises:
        ConfigError: it exists.
    """
    from llmrec.lm.pretrained import check_free

    whole = out.expanduser().resolve()
    check_free(whole)
    return whole


def _loaded(specs: list[str], seed: int) -> list[Dataset]:
    from llmrec.data.spec import load

    return [load(spec, seed=seed) for spec in specs]


def _cut_and_forget(whole: Path, out: Path, datasets: list[Dataset], seed: int) -> dict[str, Any]:
    import shutil

    try:
        return _cut(whole, out, datasets, seed)
    finally:
        shutil.rmtree(whole, ignore_errors=True)


def _cut(folder: Path, out: Path, datasets: list[Dataset], seed: int) -> dict[str, Any]:
    from itertools import chain

    from llmrec.lm.vocabulary import cut_vocabulary
    from llmrec.training.texts import texts_of

    texts = chain.from_iterable(texts_of(dataset, seed=seed) for dataset in datasets)
    return cut_vocabulary(folder, out, texts, say=note)


def _show(answer: dict[str, Any]) -> None:
    lines = [answer["path"]]
    if "sha256" in answer:
        lines.append(f"  from {answer['source']}, sha256 {answer['sha256']}")
        lines.append(f"  {answer['name']} ({answer['architecture']}), {answer['parameters']:,} parameters")
        lines.append(f"  licence: {answer['licence'] or 'the file does not say; look where you got it'}")
        lines += [f"  licence text: {Path(answer['path']) / name}" for name in answer["licence_files"]]
    if "tokens" in answer:
        lines.append(
            f"  vocabulary: {answer['tokens']:,} of {answer['tokens_before']:,} tokens; log-probabilities are over "
            "these alone (vocabulary.json has the old ids)"
        )
    lines.append(f"  use it: --backbone {answer['path']}")
    for line in lines:
        output().print(line, soft_wrap=True, markup=False)
