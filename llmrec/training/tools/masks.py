"""Two templates over the same turns of tool calls, and what carries loss in each (DualTune, arXiv 2510.00229).

Choosing: every call is reduced to the tool's name, and only the tokens of the names carry loss; a turn without a call
is the pseudo-tool `answer`. Writing: only calls of the adapter's tools carry loss, and of these the whole call. A joint
adapter learns every call whole.

    L_select = -sum of log p over the tokens of the tools' names
    L_args(k) = -sum of log p over the tokens of the calls of tool k
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from llmrec.errors import DataError
from llmrec.roles.orchestrator import ARGUMENTS, adapter_of
from llmrec.roles.tool_text import ANSWER
from llmrec.training.examples import Example, Segment
from llmrec.training.tools.trajectories import Conversation, Step


def selection_example(conversation: Conversation) -> Example:
    """The conversation with names alone; each name carries loss, nothing else does."""
    segments: list[Segment] = []
    done = ""
    for step in conversation:
        segments.append(Segment(_rest(step.before_names, done), False))
        segments += [Segment(step.name, True), Segment("\n", False)]
        done = f"{step.before_names}{step.name}\n"
    return tuple(segments)


def argument_example(
    conversation: Conversation, tools: Collection[str] | None, *, choices_only: bool = False
) -> Example:
    """The conversation with whole calls; those of `tools` carry loss, name, arguments and line ends.

    Args:
        tools: None is all of them, `answer` included (the joint adapter).
        choices_only: of arguments that a grammar settles for the most part, learn the choices that it leaves open
            (`Step.choices`). Not the paper's loss: the rest of such a call is a copy of the message.
    """
    segments: list[Segment] = []
    done = ""
    for step in conversation:
        segments.append(Segment(_rest(step.before, done), False))
        written = f"{step.name}\n" + (f"{step.arguments}\n" if step.arguments else "")
        learn = tools is None or (step.name in tools and step.name != ANSWER)
        if learn and choices_only and step.choices:
            segments += _choices(step, learn_name=tools is None)
        else:
            segments.append(Segment(written, learn))
        done = step.before + written
    return tuple(segments)


def with_loss(examples: Iterable[Example]) -> list[Example]:
    """Examples in which something is learnt, cut behind the last of it: what follows would only cost time."""
    kept = []
    for example in examples:
        last = max((place for place, segment in enumerate(example) if segment.learn), default=-1)
        if last >= 0:
            kept.append(example[: last + 1])
    return kept


def call_counts(conversations: Iterable[Conversation]) -> Counter[str]:
    """How often each tool is called; `answer` is none."""
    return Counter(step.name for one in conversations for step in one if step.name != ANSWER)


def argument_adapters(counts: Counter[str], *, per_tool: bool, minimum: int) -> dict[str, tuple[str, ...]]:
    """Adapter -> the tools whose arguments it learns to write.

    Args:
        counts: calls per tool in the training turns.
        per_tool: one adapter for each tool; else one for all.
        minimum: a tool with fewer calls gets none of its own: it shares one with the other rare tools.
    """
    tools = sorted(counts)
    own = [tool for tool in tools if per_tool and counts[tool] >= minimum]
    shared = tuple(tool for tool in tools if tool not in own)
    return {adapter_of(tool): (tool,) for tool in own} | ({ARGUMENTS: shared} if shared else {})


def _choices(step: Step, *, learn_name: bool) -> list[Segment]:
    """The call in pieces; only its choices are learnt, and the name where nothing else chooses it."""
    segments = [Segment(step.name, learn_name)]
    place = 0
    text = f"\n{step.arguments}\n"
    for start, end in step.choices:
        segments += [Segment(text[place : start + 1], False), Segment(text[start + 1 : end + 1], True)]
        place = end + 1
    return [*segments, Segment(text[place:], False)]


def _rest(text: str, done: str) -> str:
    if not text.startswith(done):
        raise DataError(
            f"the conversation so far is not the beginning of the next prompt, got {text[:80]!r} after {done[-80:]!r}; "
            "both must come from llmrec.roles.tool_text"
        )
    return text[len(done) :]
