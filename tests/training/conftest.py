"""A small nano trained for a few seconds on the embedded films."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmrec.data.dataset import Dataset
from llmrec.data.spec import load
from llmrec.data.splits import Split, leave_one_out
from llmrec.lm.nano import NanoShape
from llmrec.training.pretrain import NanoRecipe, Pretrained, train_nano

MINI = NanoRecipe(
    shape=NanoShape(vocabulary_size=1024, embedding_size=32, layers=2, head_size=16, intermediate_size=64, heads=2),
    tokens=40_000,
    block=128,
    blocks_per_step=4,
)


@pytest.fixture(autouse=True)
def _no_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compilation takes longer than these trainings."""
    monkeypatch.setenv("LLMREC_COMPILE", "0")
    monkeypatch.setenv("LLMREC_DTYPE", "float32")


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load("films", seed=0, cache=tmp_path_factory.mktemp("films"))


@pytest.fixture(scope="session")
def films_split(films: Dataset) -> Split:
    return leave_one_out(films.interactions)


@pytest.fixture(scope="session")
def mini(films: Dataset, films_split: Split, tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMREC_COMPILE", "0")
        patch.setenv("LLMREC_DTYPE", "float32")
        return train_nano(films, films_split, MINI, seed=0, cache=tmp_path_factory.mktemp("nano"))


@pytest.fixture(scope="session")
def mini_folder(mini: Pretrained) -> Path:
    return mini.path
