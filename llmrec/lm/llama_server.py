"""Starts llama.cpp's OpenAI-compatible server in this process (package `xllamacpp`)."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from llmrec.errors import ConfigError, MissingDependencyError
from llmrec.lm.gguf import GgufFacts, read_facts

HOST = "127.0.0.1"


class LlamaServer:
    """A running server; it stops with the process, or with `stop`.

    Args:
        file: GGUF file to serve.
        port: where it listens; 0 takes a free port.
        host: address it listens on; everyone who reaches it may use the model.
        parallel: sequences at once (continuous batching).
        context: tokens that one sequence may have; None takes what the model was made for, at most 4,096.
        threads: CPU threads; None leaves the choice to llama.cpp.
        embeddings: give embeddings (mean-pooled) instead of text.

    Raises:
        ModelNotFoundError: the file is missing, damaged or no GGUF file.
        MissingDependencyError: the extra `gguf` is not installed.
        ConfigError: the port is taken, or llama.cpp cannot load the model.
    """

    def __init__(
        self,
        file: Path,
        *,
        port: int = 8080,
        host: str = HOST,
        parallel: int = 4,
        context: int | None = None,
        threads: int | None = None,
        embeddings: bool = False,
    ) -> None:
        package = _xllamacpp()
        self.facts: GgufFacts = read_facts(file)
        self.host, self.port = host, _port(host, port)
        self.parallel = parallel
        self.context = context or min(self.facts.context or 4096, 4096)
        params = package.CommonParams()
        params.model.path = str(file)
        params.model_alias = {file.stem}
        params.n_parallel, params.n_ctx = parallel, self.context * parallel
        params.hostnames, params.port = [host], self.port
        params.use_jinja = True  # the model's own chat template
        if threads is not None:
            params.cpuparams.n_threads = threads
        if embeddings:
            params.embedding, params.pooling_type = True, package.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
            params.kv_unified = True  # without it, texts of different lengths that are read together are mispooled
        try:
            self._server: Any = package.Server(params)
        except RuntimeError as error:
            raise ConfigError(
                f"llama.cpp cannot serve {str(file)!r} (architecture {self.facts.architecture!r}): {error}; its log "
                "above says why"
            ) from error

    @property
    def url(self) -> str:
        """Base URL of the OpenAI interface."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/v1"

    def stop(self) -> None:
        """End the server."""
        self._server = None  # its destructor joins the threads


def _xllamacpp() -> Any:
    try:
        import xllamacpp
    except ImportError as error:
        raise MissingDependencyError("xllamacpp", needed_for="serving a GGUF file", extra="gguf") from error
    return xllamacpp


def _port(host: str, port: int) -> int:
    """The port, or a free one for 0.

    Raises:
        ConfigError: there is no such address on this machine, or the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        raise ConfigError(
            f"nothing can listen on {host}:{port} ({error.strerror or error}); choose another --port or --host"
        ) from error
