"""Progress of a training on standard error: step, loss, tokens per second, time left; and its end where it diverges."""

from __future__ import annotations

import math
import os
import sys
import time
from typing import Any

from transformers import TrainerCallback

from llmrec.errors import ModelError


def callbacks_of(title: str, *, tokens_per_step: int = 0) -> list[TrainerCallback]:
    """What every training of this package is given; see `Progress` for the arguments."""
    return [StopsWhenDiverged(), Progress(title, tokens_per_step=tokens_per_step)]


class StopsWhenDiverged(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Ends a training whose loss is no number any more: every further step would be lost."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Look at each loss that is logged.

        Raises:
            ModelError: it is infinite or NaN.
        """
        for name, value in (logs or {}).items():
            if name.endswith("loss") and not math.isfinite(value):
                raise ModelError(
                    f"the training diverged: {name} is {value} at step {state.global_step} of {state.max_steps}; "
                    f"lower learning_rate (it is {args.learning_rate:g}). Nothing was saved"
                )


class Progress(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """A progress bar with a time estimate; plain lines where standard error is not a terminal. Of several processes
    only the first one speaks.

    Args:
        title: what is being trained.
        tokens_per_step: for the speed; 0 when lengths vary.
    """

    def __init__(self, title: str, *, tokens_per_step: int = 0) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.title = title
        self.tokens_per_step = tokens_per_step
        self._console = Console(file=sys.stderr, quiet=os.environ.get("RANK", "0") != "0")
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task: Any = None
        self._started = 0.0
        self._first_step = 0
        self._next_line = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar."""
        self._bar.start()
        self._task = self._bar.add_task(self.title, total=state.max_steps, completed=state.global_step, note="")
        self._started = time.monotonic()
        self._first_step = state.global_step
        if state.global_step:
            self._console.print(f"{self.title}: resumed at step {state.global_step} of {state.max_steps}")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance; without a terminal print a line every 20 seconds."""
        note = self._note(state)
        self._bar.update(self._task, completed=state.global_step, note=note)
        elapsed = time.monotonic() - self._started
        if not self._console.is_terminal and elapsed >= self._next_line:
            done = state.global_step - self._first_step
            left = elapsed / done * (state.max_steps - state.global_step) if done else float("nan")
            self._console.print(f"{self.title}: step {state.global_step}/{state.max_steps}, {note}, {left:.0f} s left")
            self._next_line = elapsed + 20

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar and say how fast it was."""
        self._bar.stop()
        self._console.print(f"{self.title}: {self._note(state)}, {time.monotonic() - self._started:.0f} s")

    def _note(self, state: Any) -> str:
        losses = [row["loss"] for row in state.log_history if "loss" in row]
        loss = f"loss {losses[-1]:.3f}" if losses else "loss -"
        elapsed = time.monotonic() - self._started
        if not self.tokens_per_step or elapsed <= 0:
            return loss
        speed = (state.global_step - self._first_step) * self.tokens_per_step / elapsed
        return f"{loss}, {speed:,.0f} tokens/s"
