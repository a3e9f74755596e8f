"""Recipes: what `llmrec finetune` runs. A YAML file is validated whole, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from llmrec.assets import asset
from llmrec.errors import ConfigError

ADAPTER_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
"""As the store of adapters takes them (`llmrec.lm.adapters`)."""
PUSH_TARGET = r"^(file:.+|[\w.-]+/[\w.-]+)$"
"""A hub id, or a folder behind "file:"."""
LearningRateSchedule = Literal["linear", "cosine", "constant", "constant_with_warmup"]


def _at_home(value: str) -> str:
    return str(Path(value).expanduser()) if value.startswith("~") else value


PathOrName = Annotated[str, AfterValidator(_at_home)]
"""Of a setting: a path, which may begin with "~", or a name or hub id, which never does."""


class LoraSettings(BaseModel):
    """Low-rank adaptation (Hu et al., 2021)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    rank: PositiveInt = 16
    """Higher learns more and costs more memory."""
    alpha: PositiveInt = 32
    """Scale of the update is alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str | list[str] = "all-linear"


class Recipe(BaseModel):
    """What every recipe sets; those of a script add their own settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    script: str
    """Script of finetune/ that runs it."""
    role: str = Field(pattern=ADAPTER_NAME)
    """Name of the adapter: recommender, user, agent, ..."""
    dataset: str
    """Dataset spec, such as films or movielens:PATH."""
    backbone: PathOrName
    """Model folder or hub id."""
    output: PathOrName
    """Folder for adapter, model card and curves."""
    history_items: PositiveInt = 15
    max_tokens: PositiveInt = 512
    """Longest example; longer ones are left out and counted."""
    epochs: PositiveInt = 1
    batch_size: PositiveInt = 16
    """Examples per forward pass, all processes together: of n processes each takes an n-th part."""
    gradient_accumulation: PositiveInt = 1
    learning_rate: PositiveFloat = 1e-3
    schedule: LearningRateSchedule = "cosine"
    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    weight_decay: NonNegativeFloat = 0.0
    evaluations: PositiveInt = 4
    """How often the validation data are looked at; the adapter that did best on them is kept."""
    lora: LoraSettings = LoraSettings()
    gradient_checkpointing: bool = False
    """Hold few activations and compute the others again: less memory, about a third more time."""
    quantise: Literal["none", "4bit"] = "none"
    """4bit: the frozen backbone in four bits (QLoRA, Dettmers et al., 2023); needs CUDA and bitsandbytes."""
    push_to: str | None = Field(default=None, pattern=PUSH_TARGET)
    """Where the finished adapter is copied to: a hub id (NAME/REPOSITORY), or file:FOLDER."""
    seed: int = Field(default=0, ge=0, lt=2**32)


class MixRecipe(Recipe):
    """Training on a mix of kinds of examples."""

    data: dict[str, NonNegativeFloat]
    """Kinds of training examples (llmrec.training.corpus) and the share of examples of each."""
    examples: PositiveInt = 2000
    """Training examples."""
    validation_examples: NonNegativeInt = 100
    """Examples of the same kinds, from users that no training example is from, whose loss is watched. Kinds that do not
    come from users (facts, dialogues) may give some of them to both."""

    @classmethod
    def kinds(cls) -> tuple[str, ...]:
        """Kinds of examples that `data` may name."""
        from llmrec.training.corpus import BUILDERS

        return tuple(BUILDERS)

    @model_validator(mode="after")
    def _mix(self) -> Self:
        for kind in self.data:
            if kind not in self.kinds():
                raise ValueError(f"no training data of kind {kind!r}; kinds: {', '.join(self.kinds())}")
        if abs(sum(self.data.values()) - 1) > 1e-6:
            raise ValueError(f"shares in 'data' must sum to 1, got {self.data!r}")
        return self


class SftRecipe(MixRecipe):
    """Supervised fine-tuning of one role's adapter."""

    script: Literal["sft.py"] = "sft.py"


_RECIPES = {
    "sft.py": "llmrec.training.recipe:SftRecipe",
    "user.py": "llmrec.training.user.recipe:UserRecipe",
    "semantic_ids.py": "llmrec.training.semantic.recipe:SemanticRecipe",
    "lettingo.py": "llmrec.training.lettingo.recipe:LettingoRecipe",
    "calrec.py": "llmrec.training.calrec.recipe:CalrecRecipe",
    "tools.py": "llmrec.training.tools.recipe:ToolsRecipe",
}
"""The recipe class of each script, by name: they build on this module."""


R = TypeVar("R", bound=Recipe)


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe.

    Args:
        path: YAML file.
        overrides: "key=value" or "lora.rank=8"; values are YAML.

    Returns:
        The recipe of the script that the file names.

    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown, or a value is wrong; all faults at once.
    """
    values = _read_mapping(path)
    for text in overrides:
        apply_setting(values, text)
    kind = _kind(values.get("script"))
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(_fault(fault) for fault in error.errors())
        unknown = [fault["loc"][:-1] for fault in error.errors() if fault["type"] == "extra_forbidden"]
        keys = "".join(dict.fromkeys(f". {_keys(kind, group)}" for group in unknown))
        raise ConfigError(f"recipe {path} is not valid: {faults}{keys}") from error


def _fault(fault: Mapping[str, Any]) -> str:
    """One fault of a validation; that of settings together names their values itself."""
    if not fault["loc"]:
        return str(fault["msg"])
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']} (got {_short(fault['input'])})"


def _keys(kind: type[BaseModel], group: Sequence[str | int]) -> str:
    """What may stand in a group of settings, or in the recipe itself where the group holds no settings of its own."""
    found, place = kind, list[str]()
    for name in group:
        inner = found.model_fields[name].annotation if name in found.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        found, place = inner, [*place, str(name)]
    return f"Known keys{' of ' + '.'.join(place) if place else ''}: {', '.join(found.model_fields)}"


def find_recipe(name: Path) -> Path:
    """A recipe by path, or by the name of a shipped one ("user" is finetune/user.yaml).

    Raises:
        ConfigError: there is neither such a file nor such a shipped recipe.
    """
    if name.is_file():  # a folder "user" does not hide the shipped recipe
        return name
    shipped = {path.stem: path for path in asset("finetune").glob("*.yaml")}
    if str(name) in shipped:
        return shipped[str(name)]
    raise ConfigError(f"no recipe file, got {str(name)!r}; shipped recipes: {', '.join(sorted(shipped))}")


def load_recipe_of(kind: type[R], path: Path, overrides: Sequence[str] = ()) -> R:
    """`load_recipe` for a script, which takes its own recipes alone.

    Raises:
        ConfigError: as `load_recipe`, and for the recipe of another script.
    """
    recipe = load_recipe(path, overrides)
    if not isinstance(recipe, kind):
        raise ConfigError(f"{path} is a recipe of {recipe.script}, not of this script; run: llmrec finetune {path}")
    return recipe


def _kind(script: object) -> type[Recipe]:
    """The recipe class of a script.

    Raises:
        ConfigError: there is no such script.
    """
    if script not in _RECIPES:
        raise ConfigError(f"a recipe must name its script, got script={script!r}; scripts: {', '.join(_RECIPES)}")
    module, _, name = _RECIPES[str(script)].partition(":")
    kind: type[Recipe] = getattr(import_module(module), name)
    return kind


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"no recipe file, got {str(path)!r}; shipped recipes are in finetune/") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"recipe {path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"recipe {path} must be a YAML mapping of settings, got {type(values).__name__}")
    return values


def apply_setting(values: dict[str, Any], setting: str) -> None:
    """Put a setting such as "lora.rank=8" into nested values; the value is read as YAML.

    Raises:
        ConfigError: it is not key=value, its value is not YAML, or a key on the way is no group.
    """
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set needs key=value, got {setting!r}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}: the value is not YAML, got {text!r}") from error
    target = values
    *parents, last = key.split(".")
    for parent in parents:
        target = target.setdefault(parent, {})
        if not isinstance(target, dict):
            raise ConfigError(f"--set {key}: {parent!r} is not a group of settings")
    target[last] = value


def _short(value: object) -> str:
    text = repr(dict(value) if isinstance(value, Mapping) else value)
    return text if len(text) <= 60 else text[:57] + "..."
