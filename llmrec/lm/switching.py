"""Several adapters on one backbone, and switching between them.

A small backbone keeps, for each adapter, a second copy of the weights that the adapter changes, merged once; switching
swaps pointers, and decoding runs at the plain model's speed (unmerged LoRA doubles the time of a one-million-parameter
model's step). A large backbone, or an adapter that changes tied weights, runs through peft with the adapter beside the
weights. Either way the bare backbone comes back exactly: its own tensors are never written to.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from llmrec.errors import ConfigError, ModelNotFoundError
from llmrec.lm.pretrained import first_line, quiet

MERGE_BELOW = 64_000_000
"""Backbones with fewer parameters keep merged copies."""

_Weights = list[tuple[torch.nn.Parameter, torch.Tensor]]


class AdapterSwitch:
    """The adapters of one model.

    Args:
        model: a plain causal language model; its modules may be wrapped in place by peft.
        merge_below: models with fewer parameters keep merged copies of what an adapter changes.
    """

    def __init__(self, model: Any, *, merge_below: int = MERGE_BELOW) -> None:
        self._model = model
        self._small = sum(parameter.numel() for parameter in model.parameters()) < merge_below
        self._peft: Any = None
        self._with_rows: str | None = None  # an adapter beside the weights that has token rows
        self._merged: dict[str, _Weights] = {}
        self._swapped: _Weights = []  # what to put back to get the bare backbone
        self._current: str | None = None
        self._used: str | None = None

    def described(self, model: str) -> str:
        """The model by name with the adapter in force, for messages."""
        return f"the model {model!r} {f'with the adapter {self._used!r}' if self._used else 'without adapter'}"

    def load(self, name: str, folder: Path) -> None:
        """Load an adapter under a new name.

        Args:
            name: name for the adapter.
            folder: its folder, whose files are known to exist.

        Raises:
            ModelNotFoundError: the files are damaged.
            ConfigError: the adapter does not fit this model, or is a prompt-learning method.
        """
        from peft import PeftConfig

        where = f"adapter {name!r} in {str(folder)!r}"
        self._restore()
        try:
            with quiet():
                config = PeftConfig.from_pretrained(str(folder))
                if config.is_prompt_learning:
                    raise ConfigError(
                        f"{where} is of type {config.peft_type}: only adapters of weights (LoRA and kin) work"
                    )
                _check_targets(config, self._model, folder, where)
                merged = self._merge(folder) if self._small and self._peft is None else None
                if merged is not None:
                    self._merged[name] = merged
                else:
                    self._check_order(config, where)
                    self._attach(name, folder)
                    if _has_token_rows(config):
                        self._with_rows = name
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{where} does not fit this backbone: {first_line(error)}") from error
        except (OSError, SafetensorError) as error:
            raise ModelNotFoundError(f"{where} cannot be read: {first_line(error)}") from error

    def _merge(self, folder: Path) -> _Weights | None:
        """The weights that this adapter changes, changed; None where they cannot be swapped one by one."""
        from peft import PeftModel

        shared = {name for name, _ in self._model.named_parameters(remove_duplicate=False)}
        own = dict(self._model.named_parameters())
        copied = copy.deepcopy(self._model)
        adapted = PeftModel.from_pretrained(copied, str(folder))
        # Token rows are the same at both ends of tied weights; LoRA may change one end alone.
        both_ends = _has_token_rows(adapted.peft_config["default"])
        changed = adapted.merge_and_unload()
        tied = {id(p) for n, p in self._model.named_parameters(remove_duplicate=False) if n in shared - own.keys()}
        weights: _Weights = []
        for name, after in changed.named_parameters():
            before = own.get(name)
            if before is None or before.shape != after.shape:
                return None
            if not torch.equal(before, after):
                if id(before) in tied and not both_ends:
                    return None
                weights.append((before, after.detach().to(before.dtype)))
        return weights

    def _check_order(self, config: Any, where: str) -> None:
        """peft cannot add an adapter without token rows to a model that has one with them; the other way it can."""
        if self._with_rows is not None and not _has_token_rows(config):
            raise ConfigError(
                f"{where} trains no token rows and must be loaded before {self._with_rows!r}, which does: name it "
                "first, or put it first in adapters.json"
            )

    def _attach(self, name: str, folder: Path) -> None:
        from peft import PeftModel

        if self._peft is None:
            self._peft = PeftModel.from_pretrained(self._model, str(folder), adapter_name=name)
        else:
            self._peft.load_adapter(str(folder), adapter_name=name)
        self._peft.eval()

    def _restore(self) -> None:
        for parameter, tensor in self._swapped:
            parameter.data = tensor
        self._swapped, self._current = [], None

    def _swap(self, name: str) -> None:
        if self._current == name:
            return
        self._restore()
        for parameter, tensor in self._merged[name]:
            self._swapped.append((parameter, parameter.data))
            parameter.data = tensor
        self._current = name

    @contextmanager
    def use(self, name: str | None) -> Iterator[None]:
        """Run the model with this adapter; None is the bare backbone."""
        self._used = name
        if name in self._merged:
            self._swap(name)
        else:
            self._restore()
        if self._peft is None:
            yield
        elif name is None or name in self._merged:
            with self._peft.disable_adapter():
                yield
        else:
            self._peft.set_adapter(name, inference_mode=True)
            yield


def _has_token_rows(config: Any) -> bool:
    return getattr(config, "trainable_token_indices", None) is not None


def _check_targets(config: Any, model: Any, folder: Path, where: str) -> None:
    """Compare a LoRA adapter's weights with the modules it wants to change, before anything is changed.

    peft itself only warns when an adapter covers part of the model (one trained on fewer layers, say).
    """
    from peft.tuners.tuners_utils import check_target_module_exists
    from safetensors import safe_open

    weights = folder / "adapter_model.safetensors"
    if str(config.peft_type) not in ("LORA", "PeftType.LORA") or not weights.exists():
        return
    with safe_open(str(weights), framework="pt") as file:
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - not a mapping
    modules = {name: module for name, module in _plain_modules(model) if check_target_module_exists(config, name)}
    for name, module in modules.items():
        down = shapes.get(f"base_model.model.{name}.lora_A.weight")
        up = shapes.get(f"base_model.model.{name}.lora_B.weight")
        if down is None or up is None:
            if _is_linear(module):
                raise ConfigError(f"{where} does not fit this backbone: it has no weights for the module {name!r}")
        elif (up[0], down[1]) != tuple(module.weight.shape):
            raise ConfigError(
                f"{where} does not fit this backbone: for {name!r} it has shape {(up[0], down[1])}, "
                f"the model {tuple(module.weight.shape)}"
            )
    marker = ".lora_A.weight"
    extra = [
        name
        for key in shapes
        if key.endswith(marker) and (name := key.removeprefix("base_model.model.").removesuffix(marker)) not in modules
    ]
    if extra:
        raise ConfigError(f"{where} does not fit this backbone: the model has no module {extra[0]!r}")


def _plain_modules(model: Any) -> Iterator[tuple[str, Any]]:
    """Modules under their original names, also after an adapter was attached."""
    for name, module in model.named_modules():
        if ".lora_" in name or name.endswith(".base_layer"):
            continue
        yield name, getattr(module, "base_layer", module)


def _is_linear(module: Any) -> bool:
    return getattr(getattr(module, "weight", None), "ndim", 0) == 2
