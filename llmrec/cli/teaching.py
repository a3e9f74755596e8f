"""The teacher of a ranker, as ``llmrec rankers fit --teacher`` names it: its lists are collected once and kept."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrec.cli.common import note, progress

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split
    from llmrec.lm.protocol import LanguageModel
    from llmrec.ranking.distil import DistilConfig, RankingDistillation
    from llmrec.ranking.teacher import TeacherConfig
    from llmrec.retrieval.base import Recommender

STUDENTS = ("sasrec",)
_SECTIONS = ("teacher", "distil")


def distil_settings(model: str, teacher: str | None, values: dict[str, Any]) -> tuple[TeacherConfig, DistilConfig]:
    """The settings ``teacher.*`` and ``distil.*``, taken out of `values`, which keeps the student's own.

    Raises:
        ConfigError: they are wrong or stand without a teacher, or the model cannot be taught.
    """
    from pydantic import ValidationError

    from llmrec.errors import ConfigError
    from llmrec.ranking.distil import DistilConfig
    from llmrec.ranking.teacher import TeacherConfig

    given = {name: values.pop(name) for name in _SECTIONS if name in values}
    if teacher is None and given:
        raise ConfigError(f"--set {next(iter(given))}.… belongs to a teacher; name one with --teacher")
    if teacher is not None and model not in STUDENTS:
        raise ConfigError(f"--teacher teaches {', '.join(STUDENTS)}, got {model!r}; leave it out")
    try:
        return (
            TeacherConfig.model_validate(given.get("teacher", {})),
            DistilConfig.model_validate(given.get("distil", {})),
        )
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise ConfigError(f"settings of the teacher are not valid: {faults}") from error


def asks_lm(spec: str) -> bool:
    """Whether a teacher asks a language model.

    Raises:
        ConfigError: it is neither a name nor the folder of a saved recommender.
    """
    from llmrec.ranking import registry

    return not registry.is_saved(spec) and registry.needs_backbone(spec)


def taught_by(
    spec: str,
    lm: LanguageModel | None,
    data: Dataset,
    split: Split,
    *,
    asked: TeacherConfig,
    distil: DistilConfig,
    seed: int,
    kept: Path,
) -> RankingDistillation:
    """The term that teaches: the teacher is opened and asked; a killed collection of lists goes on from `kept`.

    Args:
        spec: name of a recommender, which is fitted on the training events, or folder of a saved one.
        lm: the backbone of one that asks a language model (`asks_lm`).
        data: whose catalogue it ranks.
        split: whose training events it is asked about.
        asked: how many lists, how long.
        distil: settings of the term.
        seed: of what the teacher draws.
        kept: folder of the lists.

    Raises:
        DataError: the teacher answered nothing, or no user has two training events.
    """
    from llmrec.ranking.distil import RankingDistillation
    from llmrec.ranking.teacher import build_teacher_lists, n_prefixes
    from llmrec.running import run_sync

    teacher, identity = _open(spec, lm, data, split)
    with progress(f"asking {spec}", n_prefixes(split.train, asked)) as advance:
        collecting = build_teacher_lists(
            teacher, split.train, config=asked, seed=seed, kept=kept, identity=identity, report=advance
        )
        lists = run_sync(collecting)
    term = RankingDistillation(lists, n_items=len(data.catalogue), config=distil, teacher=spec)
    note(term.note)
    return term


def _open(spec: str, lm: LanguageModel | None, data: Dataset, split: Split) -> tuple[Recommender, str]:
    """A recommender that is ready to teach, and what tells its weights from others."""
    from llmrec.cli.asking import asking_recommenders
    from llmrec.ranking import registry

    if asks_lm(spec):
        assert lm is not None, f"the teacher {spec!r} needs a language model"
        teacher = asking_recommenders([spec], lm)[spec]
        teacher.fit(data, split)
        return teacher, lm.name
    saved = registry.is_saved(spec)
    note(f"teacher {spec}: {'loading' if saved else 'fitting'}")
    return registry.fitted(spec, data, split), _hash(Path(spec)) if saved else ""


def _hash(folder: Path) -> str:
    """Of every file below a folder."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        with file.open("rb") as stream:
            digest.update(str(file.relative_to(folder)).encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
