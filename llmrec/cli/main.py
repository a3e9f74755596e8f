"""The command ``llmrec``.

Every sub-command lives in ``llmrec/cli/NAME.py`` and is imported when it is called, never before: ``llmrec --help``
needs this file, typer and nothing heavy. The help line of each sub-command therefore stands here.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

COMMANDS: dict[str, str] = {
    "quickstart": "Train nano, fine-tune its roles, evaluate, simulate, and write a report: the whole tour.",
    "data": "Describe a dataset, or download one.",
    "evaluate": "Rank the catalogue for held-out users; recall, NDCG, coverage with confidence intervals.",
    "rankers": "Train a recommender once, keep it in a folder, and say what is in one.",
    "semid": "Build, describe and use semantic ids of a catalogue.",
    "finetune": "Fine-tune a role's LoRA adapter by a recipe.",
    "simulate": "Let simulated users talk to recommenders; every session goes to the journal.",
    "sessions": "List and read the sessions of a journal.",
    "chat": "Talk to the recommender in this terminal.",
    "models": "List, check and describe backbones and adapters.",
}
"""Name of each sub-command and its line in ``llmrec --help``."""


class LazyGroup(TyperGroup):
    """A group that knows its commands by name and imports one when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command itself when it is called; a stand-in with the help line while only help is printed."""
        if cmd_name not in COMMANDS:
            return None
        # Click resolves the called command before it parses that command's arguments; for the list of
        # commands in --help it asks for every one of them, and a name with a help line is enough.
        if getattr(ctx, "listing", False):
            return _stand_in(cmd_name)
        return _command(cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print help without importing any sub-command."""
        ctx.listing = True
        super().format_help(ctx, formatter)


def _command(name: str) -> Any:
    module = importlib.import_module(f"llmrec.cli.{name}")
    command = typer.main.get_command(module.app)
    command.name = name
    command.help = command.help or COMMANDS[name]
    return command


def _stand_in(name: str) -> Any:
    app = typer.Typer()
    app.command(name, help=COMMANDS[name])(_nothing)
    return typer.main.get_command(app)


def _nothing() -> None:
    """Never called: carries a help line."""


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Agentic recommendation with language models: one backbone, LoRA roles, grounded tools, simulated users.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("llmrec"))
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
    ),
) -> None:
    """Options before the sub-command; the callback of each does the work."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the console script.

    Args:
        arguments: default ``sys.argv``.
    """
    # Threads of torch that spin while they wait slow everything five-fold as soon as another process is busy.
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = app(args=given, prog_name="llmrec", standalone_mode=False)
    except typer.Abort:  # end of input or Ctrl-C at a question
        sys.exit(130)
    except Exception as error:
        if not hasattr(error, "format_message"):  # not a usage error of typer, whose class has moved between versions
            raise
        sys.exit(_usage_error(error))
    sys.exit(code if isinstance(code, int) else 0)


def _usage_error(error: Any) -> int:
    """One line on stderr, or the help where a group was called without a command."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        context = getattr(error, "ctx", None)
        where = context.command_path if context else "llmrec"
        print(f"error: {' '.join(error.format_message().split())} (see: {where} --help)", file=sys.stderr)  # noqa: T201
    return int(error.exit_code)


if __name__ == "__main__":
    main()
