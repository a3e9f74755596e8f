"""The text in which a small model chooses tools and writes their arguments, in training and in use alike.

    ### Act                                   ### Act
    Want: genres=Comedy                       Want: genres=Comedy
    History: no                               History: no
    Call:                                     Call:
    search                    <- choice       search
                                              {"where":["genres=Comedy"]}    <- arguments
    Result: 31 candidates                     Result: 31 candidates
    Call:                                     Call:
    answer                    <- choice       answer

Reading the message is a call as well (`read`, see `llmrec.roles.marks`), and so is the end of a turn: `answer`, the
pseudo-tool of turns without a call (DualTune, arXiv 2510.00229).
"""

from __future__ import annotations

from collections.abc import Sequence

from llmrec.prompting import render
from llmrec.roles.choices import json_text
from llmrec.roles.planner import PlanForm
from llmrec.roles.understand import Form
from llmrec.tools.base import ToolEvent

READ = "read"
"""The call that reads a message."""
ANSWER = "answer"
"""The call that is none: small talk, what no tool can serve, and the end of a plan."""


def reading_prompt(blank: Form) -> str:
    """The prompt before a message is read; the name of a call starts on the next line."""
    return render("agent/tool_read", message=blank.message).rstrip() + "\n"


def acting_prompt(plan: PlanForm, *, full: bool) -> str:
    """The prompt before the next call; its name starts on the next line.

    Args:
        full: show the arguments of earlier calls; the choice of a tool sees their names alone.
    """
    text = render(
        "agent/tool_act",
        want=[wish.text() for wish in plan.request.want],
        avoid=[wish.text() for wish in plan.request.avoid],
        like=list(plan.liked),
        query=plan.request.query,
        history=plan.history,
        steps=_steps(plan.done),
        full=full,
    )
    return text.rstrip() + "\n"


def _steps(done: Sequence[ToolEvent]) -> list[dict[str, str]]:
    return [
        {
            "name": event.name,
            "arguments": json_text(dict(event.arguments)),
            "result": f"error, {event.error}" if event.error else f"{event.n_after} candidates",
        }
        for event in done
    ]
