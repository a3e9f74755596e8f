"""Every error that llmrec raises on purpose.

    LlmrecError
    ├── UserError                 the person at the keyboard must change something (exit code 2, one line, no traceback)
    │   ├── DataError             a dataset, catalogue or interaction file is not usable
    │   ├── ConfigError           a setting, recipe or spec string is wrong
    │   ├── MissingDependencyError  an optional package is not installed
    │   ├── ModelNotFoundError    a model, adapter or tokenizer is not where it was said to be
    │   ├── BudgetError           a call that the budget of a model endpoint does not allow any more (not made)
    │   ├── ServerDownError       the server of a model cannot be reached; start it and resume
    │   ├── CacheError            a cached artefact is damaged or belongs to other data
    │   └── StorageError          the disk is full, or a path cannot be read or written
    ├── ModelError                the language model or its engine failed
    │   ├── UnsupportedError      the engine lacks the verb, constraint or adapter that was asked for
    │   ├── PromptTooLong         the prompt does not fit the model's context; a shorter one may
    │   ├── OutputError           the model's answer could not be parsed
    │   └── ReplayError           a replayed call was never recorded
    ├── ToolError                 a tool call was wrong; the message goes back to the model, which may repair it
    └── EnvironmentFailure        a session could not go on (recorded in the journal, never dropped)

Messages say what happened, show the value with ``got {value!r}`` and name the remedy. Chain causes with
``raise ... from error``.
"""

from __future__ import annotations


class LlmrecError(Exception):
    """Base of all errors raised on purpose by llmrec."""


class UserError(LlmrecError):
    """The user must change an input, a setting or the installation."""


class DataError(UserError):
    """A dataset, catalogue or interaction file is not usable."""


class ConfigError(UserError):
    """A setting, recipe or spec string is wrong."""


class MissingDependencyError(UserError):
    """An optional package is not installed."""

    def __init__(self, package: str, *, needed_for: str, extra: str | None = None, command: str | None = None) -> None:
        command = command or (f"pip install 'llmrec[{extra}]'" if extra else f"pip install {package}")
        super().__init__(f"{needed_for} needs the package {package!r}, which is not installed; run: {command}")


class ModelNotFoundError(UserError):
    """A model, adapter or tokenizer is not where it was said to be."""


class BudgetError(UserError):
    """The budget of a model endpoint does not allow the call; it was not made."""


class ServerDownError(UserError):
    """The server of a model cannot be reached; what was done so far is kept, start it again and resume."""


class CacheError(UserError):
    """A cached artefact is damaged or was made from other data."""


class StorageError(UserError):
    """The disk is full, or a path cannot be read or written."""


class ModelError(LlmrecError):
    """The language model or its engine failed."""


class UnsupportedError(ModelError):
    """The engine lacks the verb, constraint or adapter that was asked for."""


class PromptTooLong(ModelError):
    """The prompt does not fit the model's context (with the numbers, where the engine gives them)."""


class OutputError(ModelError):
    """The model's answer could not be parsed."""


class ReplayError(ModelError):
    """A replayed call was never recorded."""


class ToolError(LlmrecError):
    """A tool call was wrong. The message is written for the model, which may repair the call."""


class EnvironmentFailure(LlmrecError):
    """A session could not go on; the journal keeps it with this reason."""
