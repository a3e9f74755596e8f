"""python eval/title_decoding.py --backbone runs/quickstart/backbone --users 300

Two ways of grounding what the text recommender writes, with the same model on the same users: CALRec's, which samples
texts and matches them to the catalogue by BM25, and decoding under a trie of the catalogue's texts, which can write
nothing else. The oracle scores every item of the catalogue exactly, on the first users of the sample. popular and knn
are the floors.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import Any

import numpy as np

from llmrec.benchmark.protocol import FLOORS, Evaluation, evaluate
from llmrec.data.spec import load
from llmrec.data.splits import leave_one_out
from llmrec.errors import UserError
from llmrec.lm.loading import load_backbone
from llmrec.lm.protocol import LanguageModel
from llmrec.metrics.bootstrap import paired_difference
from llmrec.metrics.ranking import masked_scores, ndcg_at, ranks_of_masked, top_k_of_masked
from llmrec.ranking.registry import build
from llmrec.retrieval.base import IntArray, Recommender
from llmrec.retrieval.calrec import CalrecConfig
from llmrec.retrieval.trie_titles import TrieTitlesConfig

SHOWN = ("recall@1", "recall@10", "ndcg@10", "mrr")


def ask(lm: LanguageModel, options: argparse.Namespace) -> dict[str, Any]:
    """The model, in the role of the recommender."""
    return {"lm": lm, "adapter": options.adapter}


def arms(lm: LanguageModel, options: argparse.Namespace) -> dict[str, Recommender]:
    """What is compared, by its name in the table."""
    beams = {"beams": options.beams, "k": min(10, options.beams)}
    return {
        **{name: build(name) for name in FLOORS},
        f"{options.samples} samples, BM25": build(
            "calrec", **ask(lm, options), config=CalrecConfig(samples=options.samples)
        ),
        "trie, whole text": build("calrec-trie", **ask(lm, options), config=TrieTitlesConfig(**beams)),
        "trie, title alone": build("calrec-trie", **ask(lm, options), config=TrieTitlesConfig(**beams, text="title")),
    }


async def against_oracle(
    beam: Recommender, oracle: Recommender, histories: list[IntArray], targets: IntArray
) -> dict[str, float]:
    """How much of the exact best ten the beam finds, and what exactness gives and takes."""
    started = time.perf_counter()
    exact = await oracle.score(histories)
    seconds = (time.perf_counter() - started) / len(histories)
    found = await beam.score(histories)
    best, mine = (top_k_of_masked(masked_scores(scores, histories), 10) for scores in (exact, found))
    values = {
        "shared": float(
            np.mean([len(set(a.tolist()) & set(b.tolist())) / 10 for a, b in zip(best, mine, strict=True)])
        ),
        "same first": float((best[:, 0] == mine[:, 0]).mean()),
        "exact s per user": seconds,
    }
    for name, scores in (("exact", exact), ("beam", found)):
        ranks = ranks_of_masked(masked_scores(scores, histories), targets)
        values[f"NDCG@10, {name}"] = float(ndcg_at(ranks, 10).mean())
    return values


def main() -> None:
    """Print the tables, or one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--adapter", default="recommender")
    parser.add_argument("--dataset", default="films")
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--oracle-users", type=int, default=30)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--beams", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    dataset = load(options.dataset, seed=options.seed)
    split = leave_one_out(dataset.interactions)
    try:
        lm = load_backbone(options.backbone, seed=options.seed)
        models = arms(lm, options)
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
    result = asyncio.run(evaluate(dataset, models, n_users=options.users, split=split, seed=options.seed, ks=(1, 10)))
    oracle = build("calrec-trie", **ask(lm, options), config=TrieTitlesConfig(search="exact"), name="exact")
    oracle.fit(dataset, split)
    few = result.users[: options.oracle_users]
    histories = [split.history(int(user), "test") for user in few]
    users, items = split.targets("test")
    targets = items[np.searchsorted(users, few)]
    beam = asyncio.run(against_oracle(models["trie, whole text"], oracle, histories, targets))
    report(result, beam, options, lm.name)


def report(result: Evaluation, beam: dict[str, float], options: argparse.Namespace, backbone: str) -> None:
    """Tables for people, or JSON."""
    sampled = next(name for name in result.models if "samples" in name)
    base = ndcg_at(result.models[sampled].ranks, 10)
    rows: dict[str, dict[str, Any]] = {}
    for name, one in result.models.items():
        gap = paired_difference(ndcg_at(one.ranks, 10), base, seed=0)
        rows[name] = {metric: one.metrics[metric]._asdict() for metric in SHOWN} | {
            "ndcg@10 minus samples": gap._asdict(),
            "ms_per_user": 1000 * one.score_s / result.n,
            "failed": one.failed,
        }
    facts = {
        "dataset": result.dataset,
        "backbone": backbone,
        "n": result.n,
        "seed": options.seed,
        "beams": options.beams,
    }
    if options.json:
        print(json.dumps(facts | {"rows": rows, "beam against oracle": beam | {"n": options.oracle_users}}))
        return
    print(", ".join(f"{key} {value}" for key, value in facts.items()) + "; 95 % bootstrap over users\n")
    print(f"| | {' | '.join(SHOWN)} | NDCG@10 minus samples | ms per user |")
    print(f"| --- | {'--- | ' * len(SHOWN)}--- | ---: |")
    for name, row in rows.items():
        shown = [_interval(row[metric]) for metric in SHOWN]
        gap_text = "–" if name == sampled else _interval(row["ndcg@10 minus samples"], sign="+")
        print(f"| {name} | {' | '.join(shown)} | {gap_text} | {row['ms_per_user']:.0f} |")
    told = ", ".join(f"{name} {value:.3f}" for name, value in beam.items())
    print(f"\nBeam of whole texts against the exact scores of every item, {options.oracle_users} users: {told}")


def _interval(value: dict[str, float], sign: str = "") -> str:
    return f"{value['value']:{sign}.4f} [{value['low']:{sign}.4f}, {value['high']:{sign}.4f}]"


if __name__ == "__main__":
    main()
