"""``llmrec models serve``: llama.cpp's OpenAI-compatible server over a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmrec.cli.common import output, run_command


def serve(
    file: Annotated[Path | None, typer.Argument(metavar="FILE.gguf", help="File to serve.")] = None,
    package: Annotated[str, typer.Option("--package", help="Packaged model to serve instead of a file.")] = "",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8080,
    host: Annotated[str, typer.Option("--host", help="Address; whoever reaches it may use the model.")] = "127.0.0.1",
    parallel: Annotated[int, typer.Option("--parallel", min=1, help="Sequences at once.")] = 4,
    context: Annotated[
        int, typer.Option("--context", min=0, help="Tokens per sequence; 0: the model's, at most 4096.")
    ] = 0,
    threads: Annotated[int, typer.Option("--threads", min=0, help="CPU threads; 0 lets llama.cpp choose.")] = 0,
    embeddings: Annotated[bool, typer.Option("--embeddings", help="Serve embeddings instead of text.")] = False,
) -> None:
    """Serve a GGUF file on this machine until Ctrl-C; the first line says which --backbone to use."""
    with run_command():
        import threading

        from llmrec.cli.models_import import gguf_file
        from llmrec.lm.llama_server import LlamaServer

        server = LlamaServer(
            gguf_file(file, package),
            port=port,
            host=host,
            parallel=parallel,
            context=context or None,
            threads=threads or None,
            embeddings=embeddings,
        )
        lines = (
            f"{server.facts.name} at {server.url}: {parallel} sequences of {server.context} tokens; Ctrl-C ends it",
            f"use it: --backbone endpoint:{server.url}",
        )
        for line in lines:
            output().print(line, soft_wrap=True, markup=False)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            server.stop()
