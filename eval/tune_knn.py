"""python eval/tune_knn.py --dataset amazon:FOLDER

Settings of item-kNN by NDCG@10 on validation targets: one setting after the other takes the best of its values while
the others stay, for some rounds. Leave-one-out, full catalogue ranked, history excluded; test targets are never read.
Prints every setting tried and the best; the last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time

from llmrec.benchmark.protocol import evaluate
from llmrec.data.dataset import Dataset
from llmrec.data.spec import load
from llmrec.data.splits import Split, leave_one_out
from llmrec.retrieval.item_knn import ItemKnnConfig, ItemKnnRecommender

GRID: dict[str, tuple[float, ...]] = {
    "window": (1, 2, 3, 5, 10, 20, 50),
    "history_items": (1, 2, 3, 5, 10, 20, 50),
    "source_discount": (0.25, 0.5, 0.75, 1.0),
    "target_discount": (0.0, 0.25, 0.4, 0.5, 0.6),
    "backward": (0.0, 0.1, 0.3, 0.6, 1.0),
}


class Tuning:
    """Validation scores of settings, each measured once."""

    def __init__(self, dataset: Dataset, split: Split, *, n_users: int, seed: int) -> None:
        self.dataset, self.split, self.n_users, self.seed = dataset, split, n_users, seed
        self.scores: dict[ItemKnnConfig, tuple[float, float]] = {}

    def ndcg(self, config: ItemKnnConfig) -> float:
        """NDCG@10 of item-kNN with these settings."""
        if config not in self.scores:
            started = time.perf_counter()
            knn = ItemKnnRecommender(config=config)
            result = asyncio.run(
                evaluate(
                    self.dataset,
                    [knn],
                    n_users=self.n_users,
                    stage="validation",
                    seed=self.seed,
                    ks=(10,),
                    split=self.split,
                    floor="",
                    n_resamples=2,
                )
            )
            metrics = result.models["knn"].metrics
            self.scores[config] = metrics["ndcg@10"].value, metrics["recall@10"].value
            ndcg, recall = self.scores[config]
            seconds = time.perf_counter() - started
            print(f"{ndcg:.4f}  {recall:.4f}  {seconds:5.1f} s  {show(config)}", flush=True)
        return self.scores[config][0]


def show(config: ItemKnnConfig) -> str:
    """Settings in one line."""
    return "  ".join(f"{name} {value}" for name, value in config.model_dump().items())


def main() -> int:
    """Print the table and the best settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="films", help="films, movielens:FOLDER, amazon:FOLDER, ...")
    parser.add_argument("--users", type=int, default=3000, help="users of the validation sample")
    parser.add_argument("--rounds", type=int, default=2, help="rounds over all settings")
    parser.add_argument("--minutes", type=float, default=5.0, help="no further setting is tried after this time")
    parser.add_argument("--seed", type=int, default=0, help="of the user sample")
    arguments = parser.parse_args()
    dataset = load(arguments.dataset)
    tuning = Tuning(dataset, leave_one_out(dataset.interactions), n_users=arguments.users, seed=arguments.seed)
    deadline = time.monotonic() + 60 * arguments.minutes
    print("NDCG@10 Recall@10")
    best = ItemKnnConfig()
    tuning.ndcg(best)
    for _ in range(arguments.rounds):
        for name, values in GRID.items():
            for value in values:
                if time.monotonic() > deadline:
                    break
                trial = ItemKnnConfig.model_validate(best.model_dump() | {name: value})
                if tuning.ndcg(trial) > tuning.ndcg(best):
                    best = trial
    default, tuned = tuning.scores[ItemKnnConfig()], tuning.scores[best]
    stopped = time.monotonic() > deadline
    print(f"best of {len(tuning.scores)}{' (time ran out)' if stopped else ''}: {show(best)}")
    print(
        json.dumps(
            {
                "dataset": arguments.dataset,
                "users": arguments.users,
                "config": best.model_dump(),
                "validation": {"ndcg@10": tuned[0], "recall@10": tuned[1]},
                "default": {"ndcg@10": default[0], "recall@10": default[1]},
                "finished": not stopped,
            }
        )
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
