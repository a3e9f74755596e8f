"""The recommender's graph parts: observe, understand, plan and act over the pool, rank, write, check.

`agents/recommender/graph.py` assembles them. State is plain data (lists, dictionaries, numbers, texts), so a
checkpointer can keep it and a journal can store it; the catalogue and the models are held by `RecommenderNodes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, TypedDict

from pydantic import BaseModel, ConfigDict, Field

from llmrec.errors import ConfigError, ModelError, OutputError, ToolError
from llmrec.lm.protocol import ToolCall
from llmrec.roles import answer, checking, planner, polarity, understand
from llmrec.roles.brain import AnswerFacts, Brain
from llmrec.roles.matching import Reader
from llmrec.roles.observation import Observation, Reply, Shown
from llmrec.roles.ranking import completed, slate_of
from llmrec.roles.request import Request, merged
from llmrec.roles.turn_log import TurnLog, is_valid
from llmrec.roles.understand import Form
from llmrec.seeding import derive
from llmrec.tools.base import ToolContext, ToolEvent, call
from llmrec.tools.pool import Candidate, CandidatePool
from llmrec.tools.registry import allowed
from llmrec.tools.resources import Resources
from llmrec.tools.wishes import Condition


class RecommenderConfig(BaseModel):
    """Settings of the recommender role (agent.yaml)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str = "films"
    """Dataset spec, used where the caller brings no dataset (the development server)."""
    backbone: str | None = None
    """Model folder or hub id, used where the caller brings no model; None reads $LLMREC_BACKBONE."""
    adapter: str | None = None
    """LoRA adapter of the role: a name at the backbone, or (`llmrec.roles.serving.parts`) a folder; None is the bare
    backbone."""
    recommender: str = "knn"
    """Behind the tool `recommend`: a name (calrec is the fine-tuned language model), or the folder of a saved one."""
    ranker: str | None = None
    """Behind the tool `rank` by taste: a name or a folder likewise; None is the recommender."""
    tools: tuple[str, ...] = ("search", "similar", "recommend", "popular", "filter", "rank")
    """Tools the role may call."""
    n: int = Field(default=5, ge=1, le=50)
    """Length of the slate."""
    max_calls: int = Field(default=planner.MAX_CALLS, ge=1, le=8)
    """Tool calls per turn."""
    brain: Literal["auto", "grammar", "tools", "chat"] = "auto"
    """How an engine is asked. grammar: the raw texts that agent adapters are trained on, under Lark grammars; tools: a
    vote on the tool, then its arguments, by the adapters of `finetune/tools.yaml`; chat: messages, for chat models that
    nobody tuned; auto: tools where the backbone has these adapters and no other is named, grammar where the engine
    takes Lark grammars, else chat."""
    votes: int = Field(default=10, ge=1, le=100)
    """Samples for the choice of a tool, with brain tools."""
    prose: bool = True
    """Whether a chat model writes the text above the slate; else templates do, which is faster."""
    polarity: bool = True
    """Whether words such as "no" and "without" before a condition overrule a model that took it for wanted."""


class State(TypedDict, total=False):
    """State of the graph. Either `observation` goes in, or a `message` (and `history` as item ids)."""

    observation: dict[str, Any] | None
    message: str | None
    history: list[str]
    seed: int
    turns: list[dict[str, Any]]
    """Finished turns of a thread that a checkpointer keeps: message, request, slate, reasons, prose, notes, events."""
    view: dict[str, Any]
    """The observation of this turn."""
    request: dict[str, Any]
    before: dict[str, Any] | None
    calls: list[dict[str, Any]]
    pool: list[list[Any]]
    events: list[dict[str, Any]]
    notes: list[str]
    record: dict[str, Any]
    """`llmrec.roles.turn_log.TurnLog` of this turn."""
    slate: list[int]
    reasons: list[str]
    prose: str


class RecommenderNodes:
    """The nodes of one recommender. All are coroutines; no threads are used, so runs are reproducible."""

    def __init__(self, config: RecommenderConfig, resources: Resources, brain: Brain) -> None:
        self.config = config
        self.resources = resources
        self.brain = brain
        self.tools = allowed(config.tools)
        self.reader = Reader(resources.dataset.catalogue, grounder=resources.grounder, attributes=resources.attributes)

    async def observe(self, state: State) -> State:
        """Take the observation of this turn, or make it from the message and the thread's earlier turns."""
        given = state.get("observation")
        view = given if given is not None else self._chat_view(state)
        empty: State = {"calls": [], "pool": [], "events": [], "notes": [], "record": TurnLog().plain()}
        return {**empty, "view": view, "turns": state.get("turns", [])}

    async def understand(self, state: State) -> State:
        """Read the messages that were not read yet; the last one decides this turn."""
        view, notes, log = observation(state["view"]), list(state["notes"]), TurnLog.of(state["record"])
        before = view.request
        older = () if before is not None else view.messages[: view.answered if view.message is None else -1]
        for message in older:
            before = merged(before, await self._read(message, before, (), state, [], log))
        now = Request(turn="open") if before is None else before
        if view.message is not None:
            now = merged(before, await self._read(view.message, before, view.last_slate, state, notes, log))
        return {"request": now.model_dump(), "notes": notes, "record": log.plain()}

    async def plan(self, state: State) -> State:
        """Ask for the next tool calls; no calls end the plan."""
        events, log = _events(state), TurnLog.of(state["record"])
        failed = [event for event in events if event.error]
        view, request = observation(state["view"]), Request(**state["request"])
        resting = request.smalltalk and not view.slate_required
        if resting or len(events) >= self.config.max_calls or len(failed) > 1:
            return {"calls": []}
        form = planner.plan_form(
            request,
            self.reader.catalogue,
            message=view.message or "",
            history=bool(view.full_history),
            done=events,
            tools=self.config.tools,
        )
        try:
            with log.step("plan"):
                calls = await self.brain.calls(form, self.tools, seed=self._seed(state, "plan", len(events)), log=log)
        except OutputError as error:
            event = asdict(ToolEvent("plan", error=str(error)))
            return {"calls": [], "events": [*state["events"], event], "record": log.plain()}
        log.calls_valid += sum(is_valid(self.tools, one) for one in calls)
        plain = [{"name": one.name, "arguments": dict(one.arguments)} for one in calls]
        return {"calls": plain, "record": log.plain()}

    async def act(self, state: State) -> State:
        """Run the calls over the pool; an error is an event that the model sees when it plans on."""
        pool, events, log = _pool(state), list(state["events"]), TurnLog.of(state["record"])
        context = self._context(state)
        for one in state["calls"][: self.config.max_calls - len(events)]:
            wanted = ToolCall(one["name"], one["arguments"])
            try:
                with log.step("tools"):
                    pool, event = await call(self.tools, wanted, pool, context)
            except ToolError as error:
                event = ToolEvent(wanted.name, dict(wanted.arguments), len(pool), len(pool), error=str(error))
                log.calls_refused += is_valid(self.tools, wanted)
            events.append(asdict(event))
        return {"pool": _plain_pool(pool), "events": events, "calls": [], "record": log.plain()}

    async def rank(self, state: State) -> State:
        """Enforce what was refused, fill up what the plan left short, and cut the slate."""
        view, request = observation(state["view"]), Request(**state["request"])
        if request.smalltalk and not view.slate_required:
            return {"slate": [], "reasons": []}
        context, notes, log = self._context(state), list(state["notes"]), TurnLog.of(state["record"])
        with log.step("tools"):
            pool, added = await completed(_pool(state), request, context, self.config.n, done=_events(state))
            pool, ordered = await self._ranked(pool, _events(state), context)
        pool, remarks = slate_of(pool, request, context, self.config.n)
        catalogue = self.reader.catalogue
        return {
            "slate": list(pool.rows),
            "reasons": [answer.reason(candidate, request, catalogue) for candidate in pool.candidates],
            "events": [*state["events"], *(asdict(event) for event in [*added, *ordered])],
            "notes": [*notes, *remarks],
            "record": log.plain(),
        }

    async def write(self, state: State) -> State:
        """Write the text above the slate: the model where it can, else the templates."""
        catalogue = self.reader.catalogue
        facts = AnswerFacts(
            message=observation(state["view"]).message or "",
            titles=tuple(catalogue.display(row) for row in state["slate"]),
            reasons=tuple(state["reasons"]),
            notes=tuple(state["notes"]),
        )
        log = TurnLog.of(state["record"])
        with log.step("prose"):
            written = await self.brain.prose(facts, seed=self._seed(state, "prose"), log=log)
        return {"prose": self._template_prose(state) if written is None else written, "record": log.plain()}

    async def check(self, state: State) -> State:
        """Replace prose that names anything but the slate and the dialogue, say so, and finish the turn."""
        view, request = observation(state["view"]), Request(**state["request"])
        found = checking.faults(
            state["slate"],
            state["prose"],
            self.resources.grounder,
            dialogue=(*view.full_history, *view.shown_items, *request.banned_items),
            said=[wish.value or "" for wish in (*request.want, *request.avoid)] + [request.query, *state["reasons"]],
        )
        done: State = {}
        if found:
            named = [*found.unknown_titles, *(self.reader.catalogue.display(row) for row in found.off_slate)]
            problem = f"the text named what is not on the list ({', '.join(named)}) and was rewritten"
            event = asdict(
                ToolEvent("check", {"named": named}, len(state["slate"]), len(state["slate"]), error=problem)
            )
            done = {
                "prose": self._template_prose(state),
                "notes": [*state["notes"], problem],
                "events": [*state["events"], event],
            }
        if state.get("observation") is None:
            final: State = {**state, **done}
            kept = ("request", "slate", "reasons", "prose", "notes", "events", "record")
            turn = {"message": state.get("message"), **{key: final[key] for key in kept}}  # type: ignore[literal-required]
            done["turns"] = [*state["turns"], turn]
        return done

    def after_plan(self, state: State) -> str:
        """Where to go after planning."""
        return "act" if state["calls"] else "rank"

    # Parts ------------------------------------------------------------------------------------------------------------

    async def _read(
        self,
        message: str,
        before: Request | None,
        shown: tuple[int, ...],
        state: State,
        notes: list[str],
        log: TurnLog,
    ) -> Request:
        blank = understand.form(message, self.reader, before=before, shown=shown)
        try:
            with log.step("understand"):
                now = await self.brain.understand(blank, seed=self._seed(state, "understand", message), log=log)
        except OutputError as error:
            notes.append(f"the message could not be read ({error}); it was searched for as it is")
            return self._checked(understand.unread(message), blank, notes, log)
        now = self._checked(now, blank, notes, log)
        if now.turn in ("new", "refine") and now == Request(turn=now.turn):
            notes.append("nothing in the message could be read; it was searched for as it is")
            return understand.unread(message)
        return now

    async def _ranked(
        self, pool: CandidatePool, done: Sequence[ToolEvent], context: ToolContext
    ) -> tuple[CandidatePool, list[ToolEvent]]:
        """Let a ranker of its own order the candidates, unless the plan ranked them."""
        own = self.resources.ranker is not self.resources.recommender
        ranked = any(event.name == "rank" and not event.error for event in done)
        if not own or ranked or not pool or not context.history or "rank" not in self.tools:
            return pool, []
        pool, event = await call(self.tools, ToolCall("rank", {"by": "taste"}), pool, context)
        return pool, [event]

    def _checked(self, now: Request, blank: Form, notes: list[str], log: TurnLog) -> Request:
        """The reading, with everything avoided that the words of the message refuse, and nothing that they ask for."""
        if not self.config.polarity:
            return now
        now, corrected = polarity.corrected(now, blank.message, blank.found)
        log.corrections += [one.text() for one in corrected]
        notes += [f"corrected: {one.text()}" for one in corrected]
        if now.unread and corrected:  # words that refuse must not be searched for
            return now.model_copy(update={"query": polarity.without_refused(blank.message, blank.found)})
        return now

    def _chat_view(self, state: State) -> dict[str, Any]:
        message = state.get("message")
        if not isinstance(message, str) or not message.strip():
            raise ConfigError("the recommender needs a message or an observation, got neither")
        turns = state.get("turns", [])
        catalogue = self.reader.catalogue
        view = Observation(
            history=tuple(catalogue.row(item_id) for item_id in state.get("history", [])),
            feedback=tuple(tuple(Shown(row, "view") for row in turn["slate"]) for turn in turns if turn["slate"]),
            messages=(*(turn["message"] for turn in turns), message),
            turn=len(turns),
            request=Request(**turns[-1]["request"]) if turns else None,
            slate_required=False,
            answered=len(turns),
        )
        return plain_observation(view)

    def _context(self, state: State) -> ToolContext:
        view, request = observation(state["view"]), Request(**state["request"])
        catalogue = self.reader.catalogue
        return ToolContext(
            self.resources,
            history=view.full_history,
            excluded=view.shown_items | request.banned_items,
            named={catalogue.display(row): row for row in request.like_titles},
            not_refused=self.resources.attributes.allowed([Condition(wish, exclude=True) for wish in request.avoid]),
            seed=self._seed(state, "tools"),
        )

    def _template_prose(self, state: State) -> str:
        view, request = observation(state["view"]), Request(**state["request"])
        return answer.prose(
            request,
            self.reader.catalogue,
            slate=state["slate"],
            reasons=state["reasons"],
            noun=self.resources.dataset.item_noun,
            feed=view.message is None and not request.conditions(),
            matched=not any(note.startswith("nothing matches the words") for note in state["notes"]),
            seed=self._seed(state, "prose"),
        )

    def _seed(self, state: State, *keys: int | str) -> int:
        return derive(state.get("seed", 0), "recommender", int(state["view"]["turn"]), *keys)


async def respond(graph: Any, observation: Observation, *, seed: int) -> Reply:
    """One turn of a session: what the recommender answers to what it sees.

    Args:
        graph: a compiled recommender graph.
        seed: of this session; the turn is in the observation.

    Returns:
        The reply; `failed` says why there is none when the model or its engine failed.
    """
    try:
        state = await graph.ainvoke({"observation": plain_observation(observation), "seed": seed})
    except ModelError as error:
        return Reply((), (), "", failed=f"{type(error).__name__}: {error}")
    return reply_of(state)


def reply_of(state: Mapping[str, Any]) -> Reply:
    """The reply in a finished state."""
    return Reply(
        slate=tuple(state["slate"]),
        reasons=tuple(state["reasons"]),
        prose=state["prose"],
        events=tuple(ToolEvent(**event) for event in state["events"]),
        notes=tuple(state["notes"]),
        request=Request(**state["request"]),
        record=state["record"],
    )


def plain_observation(view: Observation) -> dict[str, Any]:
    """An observation as plain data. Only the fields of the public type exist here."""
    return {
        "history": [int(row) for row in view.history],
        "profile": dict(view.profile),
        "feedback": [[[int(one.item), one.action, one.rating] for one in shown] for shown in view.feedback],
        "messages": list(view.messages),
        "turn": int(view.turn),
        "request": None if view.request is None else view.request.model_dump(),
        "slate_required": view.slate_required,
        "answered": view.answered,
    }


def observation(plain: Mapping[str, Any]) -> Observation:
    """The observation back from plain data."""
    return Observation(
        history=tuple(plain["history"]),
        profile=dict(plain["profile"]),
        feedback=tuple(tuple(Shown(*one) for one in shown) for shown in plain["feedback"]),
        messages=tuple(plain["messages"]),
        turn=plain["turn"],
        request=None if plain["request"] is None else Request(**plain["request"]),
        slate_required=plain["slate_required"],
        answered=plain["answered"],
    )


def _pool(state: State) -> CandidatePool:
    return CandidatePool(tuple(Candidate(*one) for one in state["pool"]))


def _plain_pool(pool: CandidatePool) -> list[list[Any]]:
    return [[one.item, one.score, one.source, one.reason] for one in pool.candidates]


def _events(state: State) -> list[ToolEvent]:
    return [ToolEvent(**event) for event in state["events"]]
