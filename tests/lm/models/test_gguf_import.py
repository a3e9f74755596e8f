"""GGUF files: what an import makes of a good one, and what it says of bad ones. A tiny model, written as GGUF."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmrec.errors import ConfigError, ModelNotFoundError
from llmrec.lm.local import LocalLM
from llmrec.testing.language_model import CONTINUATIONS, PROMPT
from tests.lm.conftest import TEXT, Folders

pytest.importorskip("gguf", reason="needs the extra gguf")
pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def file(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from llmrec.testing.gguf import save_gguf
    from llmrec.testing.models import save_tiny_model

    root = tmp_path_factory.mktemp("gguf")
    return save_gguf(save_tiny_model(root / "tiny", texts=TEXT), root / "tiny.gguf")


def test_the_folder_answers_as_the_model_did(file: Path, tmp_path: Path) -> None:
    from llmrec.lm.gguf import file_sha256, import_gguf

    record = import_gguf(file, tmp_path / "out", expected_sha256=file_sha256(file))
    assert record["architecture"] == "qwen3"
    assert json.loads((tmp_path / "out" / "import.json").read_text()) == record
    before = LocalLM.from_folder(file.parent / "tiny", dtype="float32")
    after = LocalLM.from_folder(tmp_path / "out", dtype="float32")
    expected = asyncio.run(before.score(PROMPT, CONTINUATIONS))
    # the folder holds bf16 numbers: eight bits of mantissa
    assert asyncio.run(after.score(PROMPT, CONTINUATIONS)) == pytest.approx(expected, abs=0.3)
    assert not list(tmp_path.glob("*.partial"))


def test_a_file_without_one_of_its_weights_is_refused(file: Path, tmp_path: Path) -> None:
    """transformers would draw the missing weights at random and say nothing that a program sees."""
    from llmrec.lm.gguf import import_gguf

    (tmp_path / "odd.gguf").write_bytes(file.read_bytes().replace(b"blk.0.attn_q.weight", b"blk.0.attn_z.weight"))
    with pytest.raises(ModelNotFoundError, match=r"1 weights are missing, .*q_proj"):
        import_gguf(tmp_path / "odd.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_truncated_file_is_told(file: Path, tmp_path: Path, share: float) -> None:
    from llmrec.lm.gguf import import_gguf

    content = file.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelNotFoundError, match=r"cut short.*fetch it again"):
        import_gguf(tmp_path / "cut.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_wrong_checksum_is_told(file: Path, tmp_path: Path) -> None:
    from llmrec.lm.gguf import import_gguf

    with pytest.raises(ModelNotFoundError, match=r"must be 0{64}, got [0-9a-f]{64}"):
        import_gguf(file, tmp_path / "out", expected_sha256="0" * 64)


def test_an_unknown_architecture_is_told(file: Path, tmp_path: Path) -> None:
    from llmrec.lm.gguf import import_gguf

    (tmp_path / "odd.gguf").write_bytes(file.read_bytes().replace(b"qwen3", b"qwinx"))
    with pytest.raises(ConfigError, match=r"architecture 'qwinx'.*llmrec models serve"):
        import_gguf(tmp_path / "odd.gguf", tmp_path / "out")


def test_a_full_disk_is_one_line_and_leaves_nothing(file: Path, tmp_path: Path) -> None:
    code = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "from llmrec.cli.main import main\nmain()\n"
    )
    command = [sys.executable, "-c", code, "models", "import", str(file), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("out*"))


def test_the_server_serves_what_the_command_names(file: Path) -> None:
    pytest.importorskip("xllamacpp", reason="needs the extra gguf")
    from llmrec.lm.endpoint.engine import EndpointLM
    from llmrec.lm.llama_server import LlamaServer

    server = LlamaServer(file, port=0, parallel=1, context=256, threads=1)
    try:
        lm = EndpointLM.connect(server.url)
        assert lm.context == 256
        assert len(asyncio.run(lm.score(PROMPT, [" a", " b"]))) == 2
        with pytest.raises(ConfigError, match=f"{server.port}.*another --port"):
            LlamaServer(file, port=server.port)
    finally:
        server.stop()
