"""What all commands share: option types, one way to fail, one way to print JSON, progress bars.

How to write ``llmrec/cli/NAME.py``: expose a typer app called ``app``, import nothing heavy at module level, and do the
work inside `run_command`. A command of its own::

    app = typer.Typer(add_completion=False)

    @app.command()
    def evaluate(dataset: DatasetOption, json_output: JsonOption = False, seed: SeedOption = 0) -> None:
        '''One sentence for --help.'''
        with run_command(resume="the same command goes on where it stopped"):
            from llmrec.benchmark.protocol import evaluate as run   # heavy imports here
            emit(run(...), json_output=json_output, render=show_table)

A group with sub-commands (``llmrec sessions show``)::

    app = typer.Typer(no_args_is_help=True, add_completion=False)

    @app.command("show")
    def show(...) -> None: ...

    @app.command("list")
    def list_(...) -> None: ...

Conventions: stdout carries the answer only (one JSON object with ``--json``, else tables and text for people);
progress, notes and errors go to stderr. Exit codes: 0 done, 1 the program failed, 2 the user must change something, 130
interrupted.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from llmrec.errors import LlmrecError, StorageError, UserError
from llmrec.plain import to_plain

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; all else goes to stderr.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of every random draw.", min=0)]
DatasetOption = Annotated[
    str, typer.Option("--dataset", help="films, movielens:PATH, amazon:PATH or table:PATH.", metavar="SPEC")
]
StrictOption = Annotated[bool, typer.Option("--strict", help="Stop at the first bad row instead of reporting it.")]


AdapterOption = Annotated[
    str | None,
    typer.Option(
        "--adapter",
        help="LoRA adapter of the agent: a name at the backbone, or a folder that llmrec finetune wrote.",
        metavar="NAME|DIR",
    ),
]


StyleOption = Annotated[
    str,
    typer.Option(
        "--style",
        help="How the model is asked: text (forms under a grammar: nano and fine-tuned models), chat (chat models that "
        "nobody tuned), tools (the adapters of finetune/tools.yaml), or auto: text where the engine takes grammars.",
    ),
]


ToolsOption = Annotated[
    str | None,
    typer.Option("--tools", help="Tools of the agent, comma-separated; default those of agent.yaml.", metavar="NAMES"),
]
RecommenderOption = Annotated[
    str | None,
    typer.Option(
        "--recommender",
        help="Behind the agent's tool recommend: a name such as knn or calrec, or the folder of a saved one.",
        metavar="NAME|DIR",
    ),
]
RankerOption = Annotated[
    str | None,
    typer.Option(
        "--ranker",
        help="Behind its tool rank, likewise (a saved blend, for example); default the recommender.",
        metavar="NAME|DIR",
    ),
]


def agent_settings(
    style: str, tools: str | None = None, recommender: str | None = None, ranker: str | None = None
) -> dict[str, Any]:
    """Settings of the recommender agent that the options stand for.

    Raises:
        ConfigError: there is no such style or tool.
    """
    from llmrec.errors import ConfigError
    from llmrec.tools.registry import allowed

    brains = {"auto": {}, "text": {"brain": "grammar"}, "chat": {"brain": "chat"}, "tools": {"brain": "tools"}}
    if style not in brains:
        raise ConfigError(f"--style must be one of {', '.join(brains)}, got {style!r}")
    settings: dict[str, Any] = dict(brains[style])
    if tools is not None:
        settings["tools"] = tuple(allowed([name.strip() for name in tools.split(",") if name.strip()]))
    return settings | {k: v for k, v in {"recommender": recommender, "ranker": ranker}.items() if v is not None}


def console() -> Console:
    """The console for notes, progress and tables beside ``--json``: stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def output() -> Console:
    """The console for answers to people: stdout."""
    from rich.console import Console

    return Console(highlight=False)


def note(text: str) -> None:
    """Print one plain line on stderr."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


_UNUSABLE = (
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
)  # what a path that the user named may be; ENOENT is not among them: a file of the program may be missing


@contextmanager
def run_command(*, resume: str = "") -> Iterator[None]:
    """Turn errors into one line on stderr and an exit code.

    Args:
        resume: what to say after an interruption, such as "run the same command again to go on".
    """
    try:
        yield
        sys.stdout.flush()  # a full disk or a closed pipe must not turn into exit code 0
    except KeyboardInterrupt:
        note(f"interrupted{f'; {resume}' if resume else ''}")
        raise typer.Exit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left, as in `llmrec ... | head`
        raise typer.Exit(1) from None
    except UserError as error:
        _fail(error, 2)
    except LlmrecError as error:
        _fail(error, 1)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _fail(StorageError(f"the disk is full while writing {error.filename or 'output'}; free some space"), 2)
        if error.errno not in _UNUSABLE or error.filename is None:
            raise
        why = error.strerror.lower() if error.strerror else "it cannot be used"
        _fail(StorageError(f"cannot use the path {str(error.filename)!r}: {why}; name another, or make room for it"), 2)


def _fail(error: Exception, code: int) -> None:
    note(f"error: {' '.join(str(error).split())}")
    raise typer.Exit(code) from None


def emit_json(value: Any) -> None:
    """Print one JSON object on stdout. Dataclasses, numpy values, paths and tuples are understood; NaN becomes null."""
    print(json.dumps(to_plain(value), ensure_ascii=False, allow_nan=False), flush=True)  # noqa: T201


def emit(value: T, *, json_output: bool, render: Callable[[T], None]) -> None:
    """Print an answer: as JSON, or through `render` for people."""
    if json_output:
        emit_json(value)
    else:
        render(value)


@contextmanager
def progress(description: str, total: float | None) -> Iterator[Callable[[float], None]]:
    """A progress bar on stderr with a time estimate; yields a function that advances it.

    Where stderr is not a terminal, one line at the start and one at the end are printed instead.

    Args:
        description: what is going on.
        total: number of steps, None when unknown.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    screen = console()
    if not screen.is_terminal:
        note(f"{description} ...")
        yield lambda _step: None
        note(f"{description}: done")
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen) as bar:
        task = bar.add_task(description, total=total)
        yield lambda step: bar.advance(task, step)
