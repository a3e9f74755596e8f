"""Do gradients reach the adapter, and only it? Do rows of new tokens move, and are they saved?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrec.errors import ModelError
from llmrec.training.checks.frozen import ADAPTER_MARKS, is_adapter_weight
from llmrec.training.checks.untouched import untouched

if TYPE_CHECKING:
    import torch

LossOf = Callable[[], "torch.Tensor"]
"""A real forward pass on a small batch; returns the loss that is trained on, shape ()."""
_ROWS = "trainable_tokens_delta"  # peft's name of the rows of new tokens


def check_gradients(model: Any, loss_of: LossOf) -> dict[str, Any]:
    """One forward and backward pass: every weight that is to be trained gets a gradient, and no other weight does.

    With a peft adapter the trainable weights must be the adapter's, all of the active one's. Of a pair of LoRA factors
    one may have a zero gradient (the first does while the second is zero). Without an adapter (full tuning) every
    trainable weight must get a gradient, matrices one that is not zero.

    Returns:
        Numbers for the record: the loss (nats per token) and how many weights are trained and frozen.

    Raises:
        ModelError: something is trained that must not be, or the other way round; or the loss is not finite.
    """
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    _check_what_is_trained(model, trained)
    with untouched(model):
        model.train()
        loss = loss_of()
        if not bool(loss.isfinite()):
            raise ModelError(f"the loss of the first batch is {loss.item()!r}; look at the data and the number type")
        loss.backward()  # type: ignore[no-untyped-call]
        _check_reached(model, trained)
        value = float(loss.detach())
    frozen = sum(weight.numel() for weight in model.parameters() if not weight.requires_grad)
    return {"loss": value, "trained": sum(weight.numel() for weight in trained.values()), "frozen": frozen}


def _check_what_is_trained(model: Any, trained: dict[str, Any]) -> None:
    if not trained:
        raise ModelError("nothing is to be trained: all weights are frozen; give the model an adapter, or unfreeze it")
    if not hasattr(model, "peft_config"):
        return
    if foreign := [name for name in trained if not is_adapter_weight(name)]:
        raise ModelError(
            f"{len(foreign)} weights outside the adapter would be trained, {foreign[0]!r} among them; freeze the "
            "backbone (requires_grad_(False)) or train without an adapter"
        )
    active = set(model.active_adapters)
    own = [name for name, _ in model.named_parameters() if is_adapter_weight(name) and active & set(name.split("."))]
    if stuck := [name for name in own if name not in trained]:
        raise ModelError(
            f"{len(stuck)} weights of the adapter are frozen, {stuck[0]!r} among them; load it with is_trainable=True"
        )


def _check_reached(model: Any, trained: dict[str, Any]) -> None:
    leaked = [name for name, weight in model.named_parameters() if name not in trained and weight.grad is not None]
    if leaked:
        raise ModelError(f"{len(leaked)} frozen weights got a gradient, {leaked[0]!r} among them; freeze them")
    unreached = [name for name, weight in trained.items() if weight.grad is None]
    alive: dict[str, bool] = {}
    for name, weight in trained.items():
        if weight.grad is None:
            continue
        if not bool(weight.grad.isfinite().all()):
            raise ModelError(f"the gradient of {name!r} is not finite; lower learning_rate or use another number type")
        module = _module(name)
        small = module == name and weight.ndim < 2  # a bias of full tuning may have none by symmetry
        alive[module] = alive.get(module, False) or small or bool(weight.grad.any())
    unreached += [module for module, reached in alive.items() if not reached]
    if unreached:
        raise ModelError(
            f"no gradient reaches {len(unreached)} of the weights that are to be trained, {unreached[0]!r} among them; "
            "leave them out (lora.target_modules), or look for a detached tensor or a batch without labels"
        )


def _module(name: str) -> str:
    """The layer that an adapter's weight stands on; the name itself for a weight of the model."""
    for mark in ADAPTER_MARKS:
        if mark in name:
            return name.partition(mark)[0].rstrip(".")
    return name


def check_token_rows(model: Any, tokens: Sequence[int], loss_of: LossOf) -> dict[str, Any]:
    """One step on the rows of new tokens, taken back at once: rows of the embedding move, and only those of `tokens`.

    Args:
        model: with peft's `trainable_token_indices`.
        tokens: numbers of the new tokens.
        loss_of: its batch should hold some of them.

    Raises:
        ModelError: no new row moves, or another row does.
    """
    import torch

    deltas = [weight for name, weight in model.named_parameters() if _ROWS in name and weight.requires_grad]
    if not deltas:
        raise ModelError("the rows of new tokens are not trained; set trainable_token_indices in the adapter's config")
    device = model.get_input_embeddings().weight.device
    others = sorted(set(range(0, int(model.config.get_text_config().vocab_size), 7)) - set(tokens))
    new, old = (torch.tensor(list(rows), device=device) for rows in (tokens, others))
    with untouched(model):
        before = _rows(model, new), _rows(model, old)
        model.train()
        loss_of().backward()  # type: ignore[no-untyped-call]
        kept = [delta.detach().clone() for delta in deltas]
        try:
            with torch.no_grad():
                for delta in deltas:
                    if delta.grad is not None:
                        delta -= 0.01 * delta.grad / delta.grad.abs().max().clamp_min(1e-30)
            moved = (_rows(model, new) != before[0]).any(dim=1)
            strayed = (_rows(model, old) != before[1]).any(dim=1)
        finally:
            with torch.no_grad():
                for delta, was in zip(deltas, kept, strict=True):
                    delta.copy_(was)
    if not bool(moved.any()):
        raise ModelError(
            f"a step moves none of the {len(tokens)} rows of new tokens; their numbers, "
            f"{tokens[0]} to {tokens[-1]}, must be those in trainable_token_indices, and examples must hold them"
        )
    if bool(strayed.any()):
        raise ModelError(f"a step on new tokens moves the row of token {int(old[strayed][0])}, which is an old one")
    return {"moved": int(moved.sum()), "rows": len(tokens)}


def _rows(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """What the model reads for these tokens, shape (n_tokens, width)."""
    import torch

    with torch.no_grad():
        rows: torch.Tensor = model.get_input_embeddings()(tokens).detach().clone()
        return rows


def check_saved_rows(folder: Path, model: Any) -> dict[str, Any]:
    """The rows of new tokens stand in the saved adapter as the model has them.

    Raises:
        ModelError: they are missing or differ.
    """
    import torch
    from safetensors.torch import load_file

    path = folder / "adapter_model.safetensors"
    saved = [rows for name, rows in (load_file(path) if path.exists() else {}).items() if _ROWS in name]
    live = [weight.detach().cpu() for name, weight in model.named_parameters() if _ROWS in name]
    if not saved:
        raise ModelError(f"the rows of new tokens were not saved in {str(path)!r}; save with peft's save_pretrained")
    if not any(rows.shape == own.shape and torch.equal(rows, own.to(rows.dtype)) for rows in saved for own in live):
        raise ModelError(f"the rows of new tokens in {str(path)!r} are not those of the model; save it again")
    return {"rows": int(saved[0].shape[0])}
