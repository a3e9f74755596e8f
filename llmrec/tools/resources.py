"""What all tools share: the dataset and the indices and models built over it, once per run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmrec.data.dataset import Dataset
from llmrec.data.interactions import Interactions
from llmrec.retrieval.base import Recommender
from llmrec.retrieval.bm25 import Bm25Index
from llmrec.retrieval.grounding import Grounder
from llmrec.tools.attributes import AttributeIndex


@dataclass(frozen=True)
class Resources:
    """Shared, read-only."""

    dataset: Dataset
    attributes: AttributeIndex
    bm25: Bm25Index
    """Over `Catalogue.document` of every item."""
    popularity: npt.NDArray[np.int64]
    """Interactions per item in the training part, shape (n_items,)."""
    grounder: Grounder
    neighbours: Recommender | None = None
    """Item-item model for the tool `similar`; None: content alone."""
    recommender: Recommender | None = None
    """Behind the tool `recommend`; its name is reported with every call."""
    ranker: Recommender | None = None
    """Behind `rank` by taste; its name is reported with every call."""


def build_resources(
    dataset: Dataset,
    *,
    train: Interactions | None = None,
    neighbours: Recommender | None = None,
    recommender: Recommender | None = None,
    ranker: Recommender | None = None,
) -> Resources:
    """Build the indices of a dataset.

    Args:
        train: interactions that may be counted for popularity; None takes all of the dataset's.
        neighbours: fitted item-item model.
        recommender: fitted recommender; None takes `neighbours`.
        ranker: fitted recommender that orders candidates by taste; None takes `recommender`.
    """
    catalogue = dataset.catalogue
    counted = dataset.interactions if train is None else train
    retriever = recommender if recommender is not None else neighbours
    bm25 = Bm25Index([catalogue.document(row) for row in range(len(catalogue))])
    return Resources(
        dataset=dataset,
        attributes=AttributeIndex(catalogue),
        bm25=bm25,
        popularity=counted.item_counts(),
        grounder=Grounder(catalogue, bm25=bm25),
        neighbours=neighbours,
        recommender=retriever,
        ranker=ranker if ranker is not None else retriever,
    )
