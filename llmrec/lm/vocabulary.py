"""Cuts a model's vocabulary to the tokens that some texts use.

A large vocabulary is most of a small model (168 of the 268 million parameters of gemma-3-270m) and most of its time on
a CPU. The cut model reads and writes the given texts with exactly the tokens of the whole one, and every other text
with smaller pieces, down to single bytes: no text is lost. The hidden states and the logits of kept tokens are
unchanged for a text that is tokenised alike; log-probabilities are renormalised over the kept tokens, so they are
comparable within one cut model only.

`vocabulary.json` in the folder lists the old id of every new one. LoRA adapters on attention and MLP layers fit the
whole model as well as the cut one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError

from llmrec.errors import ConfigError, ModelNotFoundError, StorageError
from llmrec.lm.gguf import RECORD
from llmrec.lm.pretrained import check_complete, check_free, first_line, quiet

MAPPING = "vocabulary.json"
_TOKENIZER = "tokenizer.json"
_ID_SETTINGS = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "decoder_start_token_id")
_COPIED = ("LICENSE*", "LICENCE*", "NOTICE*", "*.md", "*.html", "*.jinja", RECORD)


def cut_vocabulary(
    folder: Path, out: Path, texts: Iterable[str], *, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Write a model folder with a smaller vocabulary.

    Kept are: special and added tokens, single bytes and ASCII characters, every token of the texts, and the pieces that
    those are merged from.

    Args:
        folder: a Hugging Face folder with a BPE tokenizer.
        out: folder to make; it appears whole or not at all.
        texts: what the cut model must read and write without a change.

    Returns:
        The number of tokens before and after.

    Raises:
        ConfigError: the tokenizer is not BPE, or `out` exists.
        ModelNotFoundError: the folder holds no model.
        StorageError: the disk is full.
    """
    check_free(out)
    spec = _read_spec(folder)
    from transformers import AutoTokenizer

    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder)
    n_before, named = _shape(folder)
    say("reading the texts")
    used = {token for token in _tokens_of(tokenizer, texts) | named if token < n_before}
    kept = [token for token in kept_ids(spec, used) if token < n_before]  # some tokenizers have more than the model
    say(f"cutting {len(spec['model']['vocab']):,} tokens to {len(kept):,}")
    partial = out.with_name(out.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        tokenizer.save_pretrained(partial)
        text = json.dumps(cut_spec(spec, kept), ensure_ascii=False)
        (partial / _TOKENIZER).write_text(text, encoding="utf-8")
        _write_model(folder, partial, kept)
        mapping = {"n_before": n_before, "old_ids": kept}
        (partial / MAPPING).write_text(json.dumps(mapping) + "\n", encoding="utf-8")
        for file in _companions(folder):
            if not (partial / file.name).exists():
                shutil.copyfile(file, partial / file.name)
        partial.rename(out)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{str(out)!r} cannot be written: {first_line(error)}; free some space") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return {"tokens_before": n_before, "tokens": len(kept)}


def _companions(folder: Path) -> list[Path]:
    """Licence texts and records that belong to the weights."""
    record = folder / RECORD
    names = json.loads(record.read_text(encoding="utf-8")).get("licence_files", []) if record.exists() else []
    found = {file for pattern in (*_COPIED, *names) for file in folder.glob(pattern)}
    return sorted(file for file in found if file.is_file())


def _shape(folder: Path) -> tuple[int, set[int]]:
    """Rows of the embedding, and the ids that the model's settings name (begin, end, padding)."""
    from transformers import AutoConfig, GenerationConfig

    with quiet():
        config = AutoConfig.from_pretrained(folder)
        sources: list[Any] = [config, config.get_text_config()]
        if (folder / "generation_config.json").exists():
            sources.append(GenerationConfig.from_pretrained(folder))
    named: set[int] = set()
    for source in sources:
        for name in _ID_SETTINGS:
            value = getattr(source, name, None)
            named.update(value if isinstance(value, list) else [] if value is None else [value])
    return int(config.get_text_config().vocab_size), named


def old_ids(folder: Path) -> list[int]:
    """Id in the whole vocabulary of every token of a cut model, in the order of the new ids.

    Raises:
        ModelNotFoundError: the folder holds no cut model.
    """
    try:
        return [int(old) for old in json.loads((folder / MAPPING).read_text(encoding="utf-8"))["old_ids"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelNotFoundError(f"the folder holds no model with a cut vocabulary, got {str(folder)!r}") from error


def _read_spec(folder: Path) -> dict[str, Any]:
    try:
        spec = cast(dict[str, Any], json.loads((folder / _TOKENIZER).read_text(encoding="utf-8")))
        kind = spec["model"]["type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelNotFoundError(f"the folder has no usable {_TOKENIZER}, got {str(folder)!r}") from error
    if kind != "BPE":
        raise ConfigError(f"only a BPE vocabulary can be cut, got a tokenizer of type {kind!r} in {str(folder)!r}")
    return spec


def _tokens_of(tokenizer: Any, texts: Iterable[str]) -> set[int]:
    used: set[int] = set()
    batch: list[str] = []

    def count() -> None:
        for ids in tokenizer(batch, add_special_tokens=True, verbose=False)["input_ids"]:
            used.update(ids)
        batch.clear()

    for text in texts:
        batch.append(text)
        if len(batch) == 1000:
            count()
    if batch:
        count()
    return used


def kept_ids(spec: Mapping[str, Any], used: Iterable[int]) -> list[int]:
    """Ids that a cut vocabulary keeps, ascending.

    A token is merged from pieces in one way, whatever stands around it: the pairs of its pieces with the lowest ranks
    come first. Keeping those pieces keeps the tokenisation of every text whose tokens are kept.

    Args:
        spec: `tokenizer.json` of a BPE tokenizer.
        used: ids that the texts use.
    """
    vocabulary: dict[str, int] = spec["model"]["vocab"]
    text_of = {index: text for text, index in vocabulary.items()}
    ranks = {pair: rank for rank, pair in enumerate(_merges(spec))}
    kept = {int(token["id"]) for token in spec.get("added_tokens", [])}
    kept |= {index for text, index in vocabulary.items() if _is_base(text)}
    for index in used:
        text = text_of.get(index)
        if text is not None:
            kept |= {vocabulary[piece] for piece in _pieces(text, ranks) if piece in vocabulary}
        kept.add(index)
    return sorted(kept)


def _is_base(text: str) -> bool:
    """A byte token, or a character that a byte-level alphabet or ASCII has."""
    return (len(text) == 6 and text.startswith("<0x") and text.endswith(">")) or (len(text) == 1 and ord(text) < 0x180)


def _merges(spec: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Merge pairs; older files write a pair as one text with a space."""
    return [
        (pair[0], pair[1]) if not isinstance(pair, str) else (pair.split(" ")[0], pair.split(" ")[1])
        for pair in spec["model"]["merges"]
    ]


def _pieces(text: str, ranks: Mapping[tuple[str, str], int]) -> set[str]:
    """Every piece that appears while BPE builds this token from its characters."""
    parts = list(text)
    seen = set(parts) | {text}
    while len(parts) > 1:
        best = min(range(len(parts) - 1), key=lambda i: ranks.get((parts[i], parts[i + 1]), len(ranks)))
        if (parts[best], parts[best + 1]) not in ranks:
            break
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
        seen.add(parts[best])
    return seen


def cut_spec(spec: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """`tokenizer.json` with the kept tokens alone, renumbered in their order."""
    new = {old: index for index, old in enumerate(kept)}
    vocabulary = {text: new[old] for text, old in spec["model"]["vocab"].items() if old in new}
    merges = [list(pair) for pair in _merges(spec) if all(p in vocabulary for p in (*pair, pair[0] + pair[1]))]
    added = [{**token, "id": new[token["id"]]} for token in spec.get("added_tokens", []) if token["id"] in new]
    cut = {**spec, "model": {**spec["model"], "vocab": vocabulary, "merges": merges}, "added_tokens": added}
    cut["post_processor"] = _renumbered(spec.get("post_processor"), new)
    return cut


def _renumbered(value: Any, new: Mapping[int, int]) -> Any:
    """A post-processor with new ids: they stand under `ids` and as the second entry of `cls` and `sep`."""
    if isinstance(value, list):
        return [_renumbered(entry, new) for entry in value]
    if not isinstance(value, dict):
        return value
    changed = {}
    for key, entry in value.items():
        if key == "ids":
            changed[key] = [new[old] for old in entry]
        elif key in ("cls", "sep") and isinstance(entry, list):
            changed[key] = [entry[0], new[entry[1]]]
        else:
            changed[key] = _renumbered(entry, new)
    return changed


def _write_model(folder: Path, out: Path, kept: Sequence[int]) -> None:
    """Write the cut weights."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with quiet():
            model, info = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelNotFoundError(f"the model in {str(folder)!r} cannot be loaded: {first_line(error)}") from error
    check_complete(info, f"the model in {str(folder)!r}")
    rows = torch.tensor(kept)
    new = {old: index for index, old in enumerate(kept)}
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    with torch.no_grad():
        whole_in, whole_out = model.get_input_embeddings().weight[rows], model.get_output_embeddings().weight[rows]
        model.resize_token_embeddings(len(kept), mean_resizing=False)
        model.get_input_embeddings().weight.copy_(whole_in)
        if not tied:
            model.get_output_embeddings().weight.copy_(whole_out)
    configs = (model.config, model.config.get_text_config(), model.generation_config)
    for config in {id(one): one for one in configs}.values():  # often two are one
        for name in _ID_SETTINGS:
            value = getattr(config, name, None)
            if isinstance(value, list):
                setattr(config, name, [new[old] for old in value])
            elif value is not None:
                setattr(config, name, new[value])
    with quiet():
        model.save_pretrained(out)
