"""python eval/films_floors.py --seeds 0 1 2

How hard the embedded films are: Recall@10 and NDCG@10 of popularity, item-kNN, the planted tastes alone and the oracle
(true utilities of the choice model). Leave-one-out by time, full catalogue ranked, history excluded.
"""

from __future__ import annotations

import argparse
import asyncio
import time

import numpy as np

from llmrec.data.choice import PlantedTastes
from llmrec.data.films import load_films
from llmrec.data.splits import leave_one_out
from llmrec.metrics.bootstrap import bootstrap_mean
from llmrec.metrics.ranking import ndcg_at, recall_at, target_ranks
from llmrec.retrieval.base import Recommender
from llmrec.retrieval.item_knn import ItemKnnRecommender
from llmrec.retrieval.popularity import PopularityRecommender, RandomRecommender


def floors(seed: int) -> None:
    """Print one table."""
    start = time.perf_counter()
    dataset = load_films(seed=seed)
    seconds = time.perf_counter() - start
    planted = dataset.planted
    assert isinstance(planted, PlantedTastes)
    split = leave_one_out(dataset.interactions)
    users = split.users.tolist()
    histories = [split.history(user, "test") for user in users]
    models: list[Recommender] = [RandomRecommender(), PopularityRecommender(), ItemKnnRecommender()]
    for model in models:
        model.fit(dataset, split)
    scores = {model.name: asyncio.run(model.score(histories, users=users, seed=seed)) for model in models}
    scores["tastes"] = np.array([planted.taste_scores(user) for user in users], dtype=np.float64)
    scores["oracle"] = np.array([planted.oracle_scores(user) for user in users], dtype=np.float64)
    print(f"\nseed {seed}: {len(dataset.interactions)} events of {len(users)} users, generated in {seconds:.1f} s")
    for name, table in scores.items():
        ranks = target_ranks(table, split.test, histories)
        ndcg = bootstrap_mean(ndcg_at(ranks, 10), seed=seed)
        recall = bootstrap_mean(recall_at(ranks, 10), seed=seed)
        print(
            f"  {name:8s} recall@10 {recall.value:.4f} [{recall.low:.4f}, {recall.high:.4f}]"
            f"   ndcg@10 {ndcg.value:.4f} [{ndcg.low:.4f}, {ndcg.high:.4f}]"
        )


def main() -> int:
    """Print one table for each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    for seed in parser.parse_args().seeds:
        floors(seed)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
