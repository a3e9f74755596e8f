"""Semantic ids as tokens of a language model: a backbone with id tokens, and which of its rows an adapter trains.

A backbone is *extended* once: its tokenizer gets a token for every code of every level and one for every cue, its
embedding a row for each. The extended backbone is an ordinary model folder. Its new rows know nothing; an adapter
trains them together with its LoRA weights and keeps them in its own file (peft's trainable token indices), so the pair
reloads exactly with transformers and peft alone. Had the rows been added at loading instead, they would be drawn anew
each time.

All old rows and weights stay as they are, so adapters of the old backbone fit the extended one; they are copied along.
"""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from llmrec.errors import ConfigError, ModelNotFoundError, StorageError
from llmrec.lm.adapters import STAMP_FILE, STORE_FILE, AdapterStore, check_adapter, content_hash
from llmrec.lm.pretrained import check_complete, check_free, first_line, quiet

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from llmrec.semid.base import IntArray
    from llmrec.semid.codes import SemanticIds

HISTORY, ITEM, SEARCH, TITLE, ID, TEXT = "<|history|>", "<|item|>", "<|search|>", "<|title|>", "<|id|>", "<|text|>"
CUES = (HISTORY, ITEM, SEARCH, TITLE, ID, TEXT)
"""Texts that stand before and after ids in prompts, one token each."""

RECORD = "id_tokens.json"
IDS_FOLDER = "semantic_ids"
NOISE = 0.1
"""Spread of untrained rows around the mean row, in standard deviations of the old rows: enough to tell them apart,
too little for any of them to become likely in the text of another role."""
_COPIED = ("LICENSE*", "LICENCE*", "NOTICE*", "*.md", "*.html", "import.json")
_NOT_COPIED = shutil.ignore_patterns(STAMP_FILE, "checkpoints", "logs", "backbone", "training_args.bin")
_ADAPTER_CONFIG, _ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def new_token_texts(ids: SemanticIds) -> list[str]:
    """Every token that a backbone needs for these ids: the cues, then the codes level by level."""
    return [*CUES, *ids.token_texts()]


def add_id_tokens(tokenizer: Any, ids: SemanticIds) -> list[int]:
    """Add cues and id tokens to a tokenizer; they are never split and never made from other text.

    Returns:
        The number of each token, in the order of `new_token_texts`.

    Raises:
        ConfigError: the tokenizer has some of them already.
    """
    from tokenizers import AddedToken

    texts = new_token_texts(ids)
    known = tokenizer.get_vocab()
    taken = [text for text in texts if text in known]
    if taken:
        raise ConfigError(
            f"the tokenizer has the token {taken[0]!r} already ({len(taken)} of {len(texts)}); extend a backbone that "
            "has no id tokens yet"
        )
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=True) for text in texts], special_tokens=True)
    return cast(list[int], tokenizer.convert_tokens_to_ids(texts))


def token_numbers(tokenizer: Any, ids: SemanticIds) -> list[int]:
    """Numbers of the cues and id tokens in an extended tokenizer, in the order of `new_token_texts`.

    Raises:
        ConfigError: the tokenizer lacks one: the model was not extended, or with other ids.
    """
    known = tokenizer.get_vocab()
    texts = new_token_texts(ids)
    missing = [text for text in texts if text not in known]
    if missing:
        raise ConfigError(
            f"the tokenizer has no token {missing[0]!r} ({len(missing)} of {len(texts)} are missing); load the "
            "backbone that was extended with these ids (llmrec semid extend)"
        )
    return [int(known[text]) for text in texts]


def id_paths(tokenizer: Any, ids: SemanticIds) -> IntArray:
    """Token numbers of each item's id in the model's vocabulary, shape (n_items, depth)."""
    numbers = np.array(token_numbers(tokenizer, ids)[len(CUES) :], dtype=np.int64)
    return numbers[ids.tokens()]


def grow_embeddings(model: Any, tokens: Sequence[int], *, seed: int) -> None:
    """Give a model rows for new tokens: the mean of the old rows plus a little noise, equal for equal seeds.

    A model that has spare rows (a vocabulary rounded up) is not resized; their content is replaced.
    """
    import torch

    n_old = min(tokens)
    with torch.random.fork_rng():  # resizing draws from the global generator; all that it draws is replaced
        model.resize_token_embeddings(max(max(tokens) + 1, _rows(model)), mean_resizing=False)
    draw = torch.Generator().manual_seed(seed % 2**63)
    index = torch.tensor(list(tokens))
    for layer in _token_layers(model).values():
        with torch.no_grad():
            old = layer.weight[:n_old].float()  # (n_old, width)
            noise = torch.randn(len(tokens), old.shape[1], generator=draw).to(old.device)
            new = old.mean(dim=0) + NOISE * old.std(dim=0) * noise
            layer.weight[index] = new.to(layer.weight.dtype)


def trainable_rows(model: Any, tokens: Sequence[int]) -> list[int] | dict[str, list[int]]:
    """Value of peft's `trainable_token_indices` that trains these tokens at the input and at the output.

    With a tied head peft keeps one set of rows for both; otherwise each layer gets its own.
    """
    layers = _token_layers(model)
    return list(tokens) if len(layers) == 1 else {name: list(tokens) for name in layers}


def _rows(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])


def _token_layers(model: Any) -> dict[str, Any]:
    """Layers with a row per token, by name: the input embedding, and the head where it has weights of its own."""
    source, head = model.get_input_embeddings(), model.get_output_embeddings()
    layers = [source] if head is None or head.weight is source.weight else [source, head]
    return {next(name for name, module in model.named_modules() if module is layer): layer for layer in layers}


def extend_backbone(
    folder: Path, out: Path, ids: SemanticIds, *, seed: int = 0, made_from: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write a backbone with id tokens beside the old one.

    The folder holds the model, its tokenizer, the ids (`semantic_ids/`), and copies of the old backbone's role
    adapters, which fit it and are stamped for it.

    Args:
        folder: model folder without id tokens.
        out: folder to make; it appears whole or not at all.
        ids: of the catalogue.
        seed: of the untrained rows.
        made_from: what the caller wants to find again in the record; plain JSON values.

    Returns:
        What was made: tokens before and after, the roles that were copied, the fingerprint of the ids.

    Raises:
        ConfigError: `out` exists, or the model has id tokens already.
        ModelNotFoundError: the folder holds no model.
        StorageError: the disk is full.
    """
    check_free(out)
    source = content_hash(folder)  # first, because it says what is wrong with a folder
    model, tokenizer = _load(folder)
    n_before = len(tokenizer)
    tokens = add_id_tokens(tokenizer, ids)
    grow_embeddings(model, tokens, seed=seed)
    record = {
        "ids_fingerprint": ids.fingerprint,
        "catalogue_hash": ids.catalogue_hash,
        "extends": source,
        "seed": seed,
        "tokens_before": n_before,
        "tokens": len(tokenizer),
        "made_from": dict(made_from or {}),
    }
    with _whole(out) as partial:
        with quiet():
            model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        for file in sorted({file for pattern in _COPIED for file in folder.glob(pattern) if file.is_file()}):
            shutil.copyfile(file, partial / file.name)
        (partial / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        ids.save(partial / IDS_FOLDER)
        store = _copy_adapters(folder, partial)
        if len(store):
            store.save()
    return {**record, "roles": list(store)}


def bake_rows(backbone: Path, adapter: Path, out: Path, *, role: str) -> None:
    """Move an adapter's trained rows into a copy of its backbone, which leaves an ordinary LoRA adapter.

    For engines that take LoRA weights alone (vLLM, llama.cpp), and for batches that mix adapters. Together they give
    the logits that they gave before; other roles on the baked backbone see the trained rows too.

    Args:
        backbone: extended backbone.
        adapter: folder of an adapter with token rows for it.
        out: folder to make; the adapter lies in `adapters/ROLE` there and is named in `adapters.json`.
        role: name of the adapter.

    Raises:
        ConfigError: the adapter has no token rows, or `out` exists.
        ModelNotFoundError: a folder holds no model or no adapter.
    """
    import torch
    from safetensors.torch import load_file, save_file

    check_free(out)
    check_adapter(role, adapter, base_content_hash=content_hash(backbone))
    config = json.loads((adapter / _ADAPTER_CONFIG).read_text(encoding="utf-8"))
    rows = config.get("trainable_token_indices")
    if not rows:
        raise ConfigError(f"the adapter in {str(adapter)!r} trains no token rows: it is an ordinary one already")
    weights = load_file(adapter / _ADAPTER_WEIGHTS)
    model, _ = _load(backbone)
    for name, layer in _token_layers(model).items():
        new = weights.pop(f"base_model.model.{name}.token_adapter.trainable_tokens_delta")
        index = torch.tensor(rows[name] if isinstance(rows, dict) else rows)
        with torch.no_grad():
            layer.weight[index] = new.to(layer.weight.dtype)
    with _whole(out) as partial:
        kept = shutil.ignore_patterns("model*.safetensors*", "adapters", STORE_FILE)
        shutil.copytree(backbone, partial, ignore=kept)
        with quiet():
            model.save_pretrained(partial)
        store = _copy_adapters(backbone, partial, but=role)
        plain = partial / "adapters" / role
        shutil.copytree(adapter, plain, ignore=_NOT_COPIED)
        save_file(weights, plain / _ADAPTER_WEIGHTS, metadata={"format": "pt"})
        changed = json.dumps({**config, "trainable_token_indices": None}, indent=2)
        (plain / _ADAPTER_CONFIG).write_text(changed + "\n", encoding="utf-8")
        store.add(role, plain)
        store.save()


def read_record(folder: Path) -> dict[str, Any]:
    """What `extend_backbone` wrote about a folder.

    Raises:
        ModelNotFoundError: the folder holds no extended backbone.
    """
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return {**record, "ids_fingerprint": str(record["ids_fingerprint"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelNotFoundError(
            f"the folder holds no backbone with id tokens, got {str(folder)!r}; make one with llmrec semid extend"
        ) from error


def _load(folder: Path) -> tuple[Any, Any]:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder)
            model, info = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelNotFoundError(f"the model in {str(folder)!r} cannot be loaded: {first_line(error)}") from error
    check_complete(info, f"the model in {str(folder)!r} cannot be loaded")
    return model.eval(), tokenizer


def _copy_adapters(folder: Path, out: Path, *, but: str = "") -> AdapterStore:
    """Copy the role adapters of a backbone to one made from it, all but one, and stamp the copies."""
    new = AdapterStore(out)
    if (folder / STORE_FILE).exists():
        old = AdapterStore.load(folder)
        old.check()
        for role, source in old.folders().items():
            if role != but:
                copy = out / "adapters" / role
                shutil.copytree(source, copy, ignore=_NOT_COPIED)
                new.add(role, copy)
    return new


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its name when all is written.

    Raises:
        StorageError: it cannot be written.
    """
    partial = out.with_name(out.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        yield partial
        partial.rename(out)
    except OSError as error:
        raise StorageError(f"{str(out)!r} cannot be written: {first_line(error)}; free some space") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
