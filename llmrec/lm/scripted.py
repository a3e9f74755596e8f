"""Engines without a model: a scripted test double, and record and replay of real calls.

A recording is a JSON-lines file: a header with the engine's name and capabilities, then one line for each sample, score
call or embed call. Its key is a hash of everything the result may depend on, the sample's index included, so a replay
answers `n=4` from a recording made with `n=8`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrec.errors import ConfigError, ModelError, ModelNotFoundError, ReplayError, StorageError, UnsupportedError
from llmrec.lm import toolcalls
from llmrec.lm.protocol import (
    Capabilities,
    Completion,
    Constraint,
    ConstraintKind,
    LanguageModel,
    Message,
    Sampling,
    ToolCall,
    Verb,
)

_FORMAT = "llmrec-recording-1"
_ALL_CONSTRAINTS: frozenset[ConstraintKind] = frozenset({"choice", "json_schema", "lark"})


@dataclass(frozen=True)
class Call:
    """One sample that is asked of a `ScriptedLM`."""

    prompt: str | Sequence[Message]
    sampling: Sampling
    tools: Sequence[Mapping[str, Any]]
    constraint: Constraint | None
    adapter: str | None
    sample: int
    """Index of the sample within its call."""

    @property
    def text(self) -> str:
        """The prompt, or the content of the last message."""
        return self.prompt if isinstance(self.prompt, str) else str(self.prompt[-1].get("content") or "")


Respond = Callable[[Call], str | Completion]
Score = Callable[[str | Sequence[Message], Sequence[str], str | None], Sequence[float]]
Embed = Callable[[Sequence[str], str | None], npt.NDArray[np.float32]]


class ScriptedLM:
    """A test double that answers from a script. A verb without a script is not supported.

    Args:
        responses: answers in the order in which samples are asked for, or a function of the call. A text may carry
            tool-call markup, which is parsed as a real engine would.
        score: (prompt, continuations, adapter) -> log-probabilities.
        embed: (texts, adapter) -> vectors, shape (n_texts, hidden).
        name: name of the engine.
        adapters: names of adapters it claims to have.
    """

    def __init__(
        self,
        responses: Sequence[str | Completion] | Respond = (),
        *,
        score: Score | None = None,
        embed: Embed | None = None,
        name: str = "scripted",
        adapters: Sequence[str] = (),
    ) -> None:
        self._respond: Respond | None = responses if callable(responses) else None
        self._queue: Iterator[str | Completion] = iter(()) if callable(responses) else iter(responses)
        self._can_generate = callable(responses) or bool(responses)
        self._score, self._embed = score, embed
        self._name, self._adapters = name, tuple(adapters)
        self.calls: list[Call] = []
        """Every sample that was asked for, in order."""

    @property
    def name(self) -> str:
        """The given name."""
        return self._name

    @property
    def capabilities(self) -> Capabilities:
        """The scripted verbs; constraints are accepted and the script is trusted to follow them."""
        verbs: set[Verb] = set()
        if self._can_generate:
            verbs.add("generate")
        if self._score is not None:
            verbs.add("score")
        if self._embed is not None:
            verbs.add("embed")
        return Capabilities(frozenset(verbs), _ALL_CONSTRAINTS, self._adapters)

    async def generate(
        self,
        prompt: str | Sequence[Message],
        *,
        sampling: Sampling = Sampling(),
        tools: Sequence[Mapping[str, Any]] = (),
        constraint: Constraint | None = None,
        adapter: str | None = None,
    ) -> list[Completion]:
        """Answer from the script (see `LanguageModel.generate`)."""
        _require(self, "generate", adapter, constraint)
        answers = []
        for sample in range(sampling.n):
            call = Call(prompt, sampling, tuple(tools), constraint, adapter, sample)
            self.calls.append(call)
            answers.append(_completion(self._respond(call) if self._respond else self._next(call), tools))
        return answers

    def _next(self, call: Call) -> str | Completion:
        try:
            return next(self._queue)
        except StopIteration:
            raise ModelError(f"the script has no answer left for call {len(self.calls)}: {call.text[:80]!r}") from None

    async def score(
        self, prompt: str | Sequence[Message], continuations: Sequence[str], *, adapter: str | None = None
    ) -> list[float]:
        """Score by the script."""
        _require(self, "score", adapter)
        assert self._score is not None
        return [float(value) for value in self._score(prompt, continuations, adapter)]

    async def embed(self, texts: Sequence[str], *, adapter: str | None = None) -> npt.NDArray[np.float32]:
        """Embed by the script."""
        _require(self, "embed", adapter)
        assert self._embed is not None
        return np.asarray(self._embed(texts, adapter), dtype=np.float32)


def _require(lm: LanguageModel, verb: Verb, adapter: str | None, constraint: Constraint | None = None) -> None:
    can = lm.capabilities
    if verb not in can.verbs:
        raise UnsupportedError(f"{lm.name!r} cannot {verb}; it can {', '.join(sorted(can.verbs)) or 'nothing'}")
    if adapter is not None and adapter not in can.adapters:
        raise UnsupportedError(f"{lm.name!r} has no adapter {adapter!r}; it has {', '.join(can.adapters) or 'none'}")
    if constraint is not None and constraint.kind not in can.constraints:
        raise UnsupportedError(f"{lm.name!r} does not support {constraint.kind!r} constraints")


def _completion(answer: str | Completion, tools: Sequence[Mapping[str, Any]]) -> Completion:
    if isinstance(answer, Completion):
        return answer
    parsed = toolcalls.parse(answer, tools=tools)
    n_tokens = len(answer.split()) + 1  # words and the end: enough for a double
    return Completion(parsed.text, 0.0, n_tokens, "stop", tool_calls=parsed.calls, raw=answer, repairs=parsed.repairs)


# ---- record and replay


def _generate_request(
    prompt: str | Sequence[Message],
    sampling: Sampling,
    tools: Sequence[Mapping[str, Any]],
    constraint: Constraint | None,
    adapter: str | None,
) -> dict[str, Any]:
    settings = asdict(replace(sampling, n=1))
    del settings["n"]
    return {
        "verb": "generate",
        "prompt": prompt if isinstance(prompt, str) else [dict(message) for message in prompt],
        "tools": [dict(tool) for tool in tools],
        "constraint": None if constraint is None else {"kind": constraint.kind, "value": _plain(constraint.value)},
        "adapter": adapter,
        "sampling": settings,
    }


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | Mapping) else list(value)


def _key(name: str, request: Mapping[str, Any], sample: int = 0) -> str:
    text = json.dumps([name, request, sample], sort_keys=True, ensure_ascii=False, default=_plain)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class RecordingLM:
    """Passes calls to a real engine and records its answers.

    Args:
        lm: the engine.
        path: recording to write; an existing one of the same engine is continued.
    """

    def __init__(self, lm: LanguageModel, path: Path) -> None:
        self._lm, self._path = lm, Path(path)
        self._known: set[str] = set()
        if self._path.exists():
            header, lines = _read(self._path)
            if header["name"] != lm.name:
                raise ConfigError(f"{str(path)!r} records {header['name']!r}, got {lm.name!r}; choose another file")
            self._known = {line["key"] for line in lines}
        else:
            can = lm.capabilities
            header = {
                "format": _FORMAT,
                "name": lm.name,
                "verbs": sorted(can.verbs),
                "constraints": sorted(can.constraints),
                "adapters": list(can.adapters),
            }
            self._append([header])

    def _append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(line, ensure_ascii=False, default=_plain) + "\n" for line in lines)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(text)
        except OSError as error:
            raise StorageError(f"the recording {str(self._path)!r} cannot be written: {error.strerror}") from error

    def _record(self, request: Mapping[str, Any], results: Sequence[Any]) -> None:
        lines = []
        for sample, result in enumerate(results):
            key = _key(self.name, request, sample)
            if key not in self._known:
                self._known.add(key)
                lines.append({"key": key, "request": request, "sample": sample, "result": result})
        if lines:
            self._append(lines)

    @property
    def name(self) -> str:
        """Name of the engine behind."""
        return self._lm.name

    @property
    def capabilities(self) -> Capabilities:
        """Those of the engine behind."""
        return self._lm.capabilities

    async def generate(
        self,
        prompt: str | Sequence[Message],
        *,
        sampling: Sampling = Sampling(),
        tools: Sequence[Mapping[str, Any]] = (),
        constraint: Constraint | None = None,
        adapter: str | None = None,
    ) -> list[Completion]:
        """Generate with the engine behind, and record every sample."""
        answers = await self._lm.generate(
            prompt, sampling=sampling, tools=tools, constraint=constraint, adapter=adapter
        )
        request = _generate_request(prompt, sampling, tools, constraint, adapter)
        self._record(request, [asdict(answer) for answer in answers])
        return answers

    async def score(
        self, prompt: str | Sequence[Message], continuations: Sequence[str], *, adapter: str | None = None
    ) -> list[float]:
        """Score with the engine behind, and record."""
        scores = await self._lm.score(prompt, continuations, adapter=adapter)
        self._record(_score_request(prompt, continuations, adapter), [scores])
        return scores

    async def embed(self, texts: Sequence[str], *, adapter: str | None = None) -> npt.NDArray[np.float32]:
        """Embed with the engine behind, and record."""
        vectors = await self._lm.embed(texts, adapter=adapter)
        self._record(_embed_request(texts, adapter), [vectors.tolist()])
        return vectors


def _score_request(
    prompt: str | Sequence[Message], continuations: Sequence[str], adapter: str | None
) -> dict[str, Any]:
    shown = prompt if isinstance(prompt, str) else [dict(message) for message in prompt]
    return {"verb": "score", "prompt": shown, "continuations": list(continuations), "adapter": adapter}


def _embed_request(texts: Sequence[str], adapter: str | None) -> dict[str, Any]:
    return {"verb": "embed", "texts": list(texts), "adapter": adapter}


class ReplayLM:
    """Answers from a recording, and only from it.

    Args:
        path: a file that `RecordingLM` wrote.

    Raises:
        ModelNotFoundError: the file is missing.
        ConfigError: it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(path)
        header, lines = _read(self._path)
        self._name = str(header["name"])
        self._capabilities = Capabilities(
            verbs=frozenset(header["verbs"]),
            constraints=frozenset(header["constraints"]),
            adapters=tuple(header["adapters"]),
        )
        self._results = {line["key"]: line["result"] for line in lines}
        self._requests = {line["key"]: (line["request"], line["sample"]) for line in lines}

    @property
    def name(self) -> str:
        """Name of the engine that was recorded."""
        return self._name

    @property
    def capabilities(self) -> Capabilities:
        """Those of the engine that was recorded."""
        return self._capabilities

    def _find(self, request: Mapping[str, Any], sample: int = 0) -> Any:
        key = _key(self._name, request, sample)
        if key not in self._results:
            raise ReplayError(f"this call was never recorded in {str(self._path)!r}: {self._nearest(request, sample)}")
        return self._results[key]

    def _nearest(self, request: Mapping[str, Any], sample: int) -> str:
        """Name the most similar recorded call and say what differs."""
        wanted = _shown(request)
        same_verb = [(other, index) for other, index in self._requests.values() if other["verb"] == request["verb"]]
        if not same_verb:
            return f"nothing was recorded for {request['verb']!r}"
        texts = [_shown(other) for other, _ in same_verb]
        close = difflib.get_close_matches(wanted, texts, n=1, cutoff=0.0)
        nearest = [entry for entry, text in zip(same_verb, texts, strict=True) if text == close[0]]
        other, index = max(nearest, key=lambda entry: sum(entry[0][name] == request[name] for name in request))
        plain = json.loads(json.dumps(request, default=_plain))
        differing = [name for name in plain if plain[name] != other[name]] or ["sample"]
        details = ", ".join(
            f"{name} {_short(sample)} instead of {_short(index)}"
            if name == "sample"
            else f"{name} {_short(plain[name])} instead of {_short(other[name])}"
            for name in differing
        )
        return f"the nearest recorded call differs in {details}"

    async def generate(
        self,
        prompt: str | Sequence[Message],
        *,
        sampling: Sampling = Sampling(),
        tools: Sequence[Mapping[str, Any]] = (),
        constraint: Constraint | None = None,
        adapter: str | None = None,
    ) -> list[Completion]:
        """Replay samples.

        Raises:
            ReplayError: one of them was never recorded.
        """
        _require(self, "generate", adapter, constraint)
        request = _generate_request(prompt, sampling, tools, constraint, adapter)
        return [_from_record(self._find(request, sample)) for sample in range(sampling.n)]

    async def score(
        self, prompt: str | Sequence[Message], continuations: Sequence[str], *, adapter: str | None = None
    ) -> list[float]:
        """Replay scores."""
        _require(self, "score", adapter)
        return list(self._find(_score_request(prompt, continuations, adapter)))

    async def embed(self, texts: Sequence[str], *, adapter: str | None = None) -> npt.NDArray[np.float32]:
        """Replay vectors."""
        _require(self, "embed", adapter)
        return np.array(self._find(_embed_request(texts, adapter)), dtype=np.float32)


def _from_record(record: Mapping[str, Any]) -> Completion:
    calls = tuple(ToolCall(**call) for call in record["tool_calls"])
    return Completion(**{**record, "tool_calls": calls, "repairs": tuple(record.get("repairs", ()))})


def _shown(request: Mapping[str, Any]) -> str:
    shown = request.get("prompt", request.get("texts"))
    return shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False, default=_plain)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 160 else f"{text[:60]} ... {text[-95:]}"


def _read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    if not path.is_file():
        raise ModelNotFoundError(f"there is no recording, got {str(path)!r}")
    entries: list[dict[str, Any]] = []
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            entry = json.loads(line)
            known = (
                {"name", "verbs", "constraints", "adapters"} if number == 1 else {"key", "request", "sample", "result"}
            )
            if not isinstance(entry, dict) or not known <= entry.keys():
                raise ConfigError(
                    f"line {number} of the recording {str(path)!r} is not one of a recording: {line[:80]!r}"
                )
            entries.append(entry)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the recording {str(path)!r} is damaged: {error}") from error
    if not entries or entries[0].get("format") != _FORMAT:
        raise ConfigError(f"{str(path)!r} is not a recording (its first line must name {_FORMAT!r})")
    return entries[0], entries[1:]
