"""How a training of minutes or hours tells where it stands."""

from __future__ import annotations

import time
from collections.abc import Callable

from llmrec.ranking.fit import Progress, Report


def told(say: Callable[[str], None], *, every: float = 30.0) -> Report:
    """A report that puts a line into words, at most once in a while.

    Args:
        say: receives the line.
        every: shortest time between two lines, in seconds.
    """
    last = time.monotonic()

    def report(now: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= every:
            last = time.monotonic()
            say(line(now))

    return report


def line(now: Progress) -> str:
    """Epoch, step, loss, best validation so far and time, in words."""
    step = now.step % now.steps_per_epoch
    best = "" if now.best_ndcg is None else f", best validation NDCG@10 {now.best_ndcg:.4f}"
    return f"epoch {now.epoch + 1}, step {step}/{now.steps_per_epoch}, loss {now.loss:.3f}{best}, {now.minutes:.1f} min"
