"""All text that a dataset and the prompts of this package make a model read or write."""

from __future__ import annotations

from collections.abc import Iterator

from llmrec.assets import asset
from llmrec.data.dataset import Dataset
from llmrec.data.splits import leave_one_out
from llmrec.seeding import rng
from llmrec.training.corpus import BUILDERS, Material, build


def texts_of(dataset: Dataset, *, seed: int = 0) -> Iterator[str]:
    """Every item, one pass of every kind of training example, and the prompt templates.

    Segments come one by one and joined, because models read both; no text comes twice.

    Args:
        seed: draws the examples.
    """
    seen: set[int] = set()
    for text in _texts(dataset, seed):
        if hash(text) not in seen:
            seen.add(hash(text))
            yield text


def _texts(dataset: Dataset, seed: int) -> Iterator[str]:
    catalogue = dataset.catalogue
    for row in range(len(catalogue)):
        yield catalogue.display(row)
        yield f" {catalogue.display(row)}"
    material = Material(dataset, leave_one_out(dataset.interactions))
    for kind in BUILDERS:
        for example in build(kind, material, rng(seed, "texts", kind)):
            yield "".join(segment.text for segment in example)
            yield from (segment.text for segment in example)
    for template in sorted(asset("prompts").rglob("*.jinja")):
        yield template.read_text(encoding="utf-8")
