"""A small real HTTP server that plays llama.cpp, vLLM and the plain OpenAI API, and misbehaves on command."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Kind = Literal["llamacpp", "vllm", "openai"]
KEY = "sk-planted-4711-secret"


@dataclass(frozen=True)
class Received:
    """One request as it arrived."""

    path: str
    headers: Mapping[str, str]
    body: Any


def logprob(tokens: Sequence[int], token: int) -> float:
    """A made-up model over bytes: the next byte is likelier the nearer it is to the last one."""
    return _logprobs(tokens[-1] if tokens else 0)[token]


@cache
def _logprobs(last: int) -> tuple[float, ...]:
    weights = [math.exp(-abs(last - other) / 8) for other in range(256)]
    return tuple(math.log(weight / sum(weights)) for weight in weights)


def chat_text(messages: Sequence[Mapping[str, Any]]) -> str:
    return "".join(f"<{message['role']}>{message['content']}" for message in messages) + "<assistant>"


@dataclass
class Fake:
    """What the server is and what it has seen."""

    kind: Kind = "llamacpp"
    models: list[dict[str, Any]] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    faults: list[Callable[[Handler], None]] = field(default_factory=list)
    """Behaviours of the next requests to the model, in order."""
    answer: dict[str, Any] = field(default_factory=dict)
    """Overrides of the message (chat) or choice."""
    finish_reason: str | None = "stop"
    key: str | None = None
    text: str = "fine"
    top: list[str] = field(default_factory=lambda: ["Yes", "No"])
    most: int = 0
    """Most requests to the model under way at once."""
    delay_s: float = 0.0
    url: str = ""
    _busy: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def bodies(self, end: str) -> list[Any]:
        return [request.body for request in self.received if request.path.endswith(end)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: Fake
    _counted: bool = False

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        return

    def do_GET(self) -> None:
        self._handle(None)

    def do_POST(self) -> None:
        self._handle(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _handle(self, body: Any) -> None:
        fake = self.fake
        with fake._lock:
            fake.received.append(Received(self.path, {name.lower(): text for name, text in self.headers.items()}, body))
            fake._busy += 1
            fake.most = max(fake.most, fake._busy)
        self._counted = True
        try:
            if fake.key is not None and self.headers.get("Authorization") != f"Bearer {fake.key}":
                said = f"Incorrect API key provided: {self.headers.get('Authorization')}"
                return self.reply({"error": {"message": said, "code": "invalid_api_key"}}, status=401)
            if fake.faults and self.path.endswith(("completions", "completion")):
                return fake.faults.pop(0)(self)
            time.sleep(fake.delay_s if self.path.endswith("completions") else 0)
            route = ROUTES.get((fake.kind, self.path)) or ROUTES.get(("all", self.path))
            if route is None:
                return self.reply({"error": {"message": "File Not Found", "type": "not_found_error"}}, status=404)
            route(self, body)
        finally:
            self._answered()

    def _answered(self) -> None:
        """Not under way any more: said before the last byte leaves, since the client may ask again at once after it."""
        if self._counted:
            self._counted = False
            with self.fake._lock:
                self.fake._busy -= 1

    def reply(self, value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self._answered()
        self.wfile.write(data)

    def send_events(self, chunks: Sequence[Mapping[str, Any]], *, done: bool = True) -> None:
        """Server-sent events; the connection closes at the end, with or without the last event."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        with suppress(ConnectionError):  # a client may leave
            for chunk in chunks:
                self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
                self.wfile.flush()
            self._answered()
            if done:
                self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True


def usage(prompt: int, new: int) -> dict[str, Any]:
    cached = {"cached_tokens": prompt // 2}
    return {"prompt_tokens": prompt, "completion_tokens": new, "prompt_tokens_details": cached}


def _models(handler: Handler, body: Any) -> None:
    handler.reply({"object": "list", "data": handler.fake.models})


def _complete(handler: Handler, body: Any) -> None:
    fake, chat = handler.fake, handler.path.endswith("chat/completions")
    prompt = len(chat_text(body["messages"]) if chat else body["prompt"])
    text = fake.text.format(seed=body.get("seed"))
    if body.get("stream"):
        return _stream(handler, text, chat=chat, n_prompt=prompt)
    choice: dict[str, Any] = {"index": 0, "finish_reason": fake.finish_reason}
    if chat:
        choice["message"] = {"role": "assistant", "content": text, **fake.answer}
        if body.get("logprobs"):
            top = [{"token": token, "logprob": -0.5 * (place + 1)} for place, token in enumerate(fake.top)]
            n = 1 if body.get("top_logprobs") == 20 else len(text)
            choice["logprobs"] = {"content": [{"token": fake.top[0], "logprob": -0.5, "top_logprobs": top}] * n}
    else:
        choice |= {"text": text, **fake.answer}
        if body.get("logprobs"):
            choice["logprobs"] = {"token_logprobs": [-0.25] * len(text)}
        if body.get("prompt_logprobs") is not None:
            tokens = body["prompt"]
            places: list[Any] = [None]
            for place in range(1, len(tokens)):
                value = logprob(tokens[:place], tokens[place])
                places.append({str(tokens[place]): {"logprob": value}, "300": {"logprob": -0.1}})
            choice["prompt_logprobs"] = places
    written = 1 if "prompt_logprobs" in body else len(text)
    handler.reply({"choices": [choice], "usage": usage(prompt, written)})


def _stream(handler: Handler, text: str, *, chat: bool, n_prompt: int) -> None:
    chunks: list[dict[str, Any]] = []
    for letter in text:
        part: dict[str, Any] = {"delta": {"content": letter}} if chat else {"text": letter}
        chunks.append({"choices": [{"index": 0, "finish_reason": None, **part}]})
    for index, call in enumerate(handler.fake.answer.get("tool_calls") or ()):
        function = call["function"]
        for part in ({"name": function["name"]}, *({"arguments": piece} for piece in function["arguments"])):
            delta = {"tool_calls": [{"index": index, "function": part}]}
            chunks.append({"choices": [{"index": 0, "finish_reason": None, "delta": delta}]})
    end: dict[str, Any] = {"index": 0, "finish_reason": handler.fake.finish_reason, "delta": {}, "text": ""}
    chunks += [{"choices": [end]}, {"choices": [], "usage": usage(n_prompt, len(text))}]
    handler.send_events(chunks)


def _native(handler: Handler, body: Any) -> None:
    """llama.cpp's /completion: the forced token, and the likeliest ones."""
    tokens, (forced, _) = body["prompt"], body["logit_bias"][0]
    ranked = sorted(range(256), key=lambda token: -logprob(tokens, token))[: body["n_probs"]]
    top = [{"id": token, "logprob": logprob(tokens, token)} for token in ranked]
    place = {"id": forced, "logprob": logprob(tokens, forced), "top_logprobs": top}
    count = {"tokens_evaluated": len(tokens), "tokens_predicted": 1, "timings": {"cache_n": len(tokens) - 1}}
    # as llama.cpp does for a token that is a part of a character
    handler.reply(count | ({"completion_probabilities": [place]} if forced < 128 else {}))


def _tokenize(handler: Handler, body: Any) -> None:
    text = chat_text(body["messages"]) if "messages" in body else body.get("content", body.get("prompt"))
    start = [2] if body.get("add_special", body.get("add_special_tokens", False)) else []  # a begin token
    handler.reply({"tokens": start + list(text.encode())})


def _embed(handler: Handler, body: Any) -> None:
    rows = [{"index": place, "embedding": [float(len(text)), 1.0]} for place, text in enumerate(body["input"])]
    handler.reply({"data": rows[::-1], "usage": {"prompt_tokens": 3}})


Route = Callable[[Handler, Any], None]
LORAS: list[dict[str, Any]] = [{"id": 0, "path": "/x/red.gguf"}, {"id": 1, "path": "/x/blue.gguf"}]
ROUTES: dict[tuple[str, str], Route] = {
    ("all", "/v1/models"): _models,
    ("all", "/v1/completions"): _complete,
    ("all", "/v1/chat/completions"): _complete,
    ("all", "/tokenize"): _tokenize,
    ("openai", "/v1/embeddings"): _embed,
    ("llamacpp", "/completion"): _native,
    ("llamacpp", "/props"): lambda handler, body: handler.reply({"default_generation_settings": {"n_ctx": 512}}),
    ("llamacpp", "/lora-adapters"): lambda handler, body: handler.reply(LORAS),
    ("llamacpp", "/apply-template"): lambda handler, body: handler.reply({"prompt": chat_text(body["messages"])}),
}

LLAMACPP_MODELS: list[dict[str, Any]] = [
    {"id": "/models/tiny.gguf", "owned_by": "llamacpp", "meta": {"ftype": "F32", "n_params": 9}}
]
VLLM_MODELS: list[dict[str, Any]] = [
    {"id": "tiny", "root": "org/tiny", "owned_by": "vllm", "parent": None, "max_model_len": 64},
    {"id": "red", "root": "/x/red", "owned_by": "vllm", "parent": "tiny"},
]
OPENAI_MODELS: list[dict[str, Any]] = [{"id": "small", "owned_by": "system"}, {"id": "large", "owned_by": "system"}]
MODELS: dict[str, list[dict[str, Any]]] = {"llamacpp": LLAMACPP_MODELS, "vllm": VLLM_MODELS, "openai": OPENAI_MODELS}


class Running:
    """A fake under way; `with Running("vllm") as fake`."""

    def __init__(self, kind: Kind = "llamacpp") -> None:
        self.fake = Fake(kind=kind, models=MODELS[kind])
        handler = type("OwnHandler", (Handler,), {"fake": self.fake})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.fake.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Fake:
        self._thread.start()
        return self.fake

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def status(code: int, message: str = "busy", **headers: str) -> Callable[[Handler], None]:
    """A fault: this status."""
    said = {"error": {"message": message, "code": code}}
    return lambda handler: handler.reply(
        said, status=code, headers={name.replace("_", "-"): headers[name] for name in headers}
    )
