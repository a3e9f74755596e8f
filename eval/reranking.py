"""python eval/reranking.py --recommender knn --stage validation --users 600

What re-ranking costs in NDCG@k and gives in variety: the lists of one recommender as they are and re-ranked, for the
same users. Diversity is the mean distance (1 - Jaccard of a category attribute) of two items of a list, miscalibration
the divergence (nats) of a list's categories from those of the history. Leave-one-out, full catalogue, history excluded.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

from llmrec.benchmark.reranking import BEFORE, MEASURES, RerankingReport, compare_reranking
from llmrec.data.spec import load
from llmrec.data.splits import leave_one_out
from llmrec.errors import UserError
from llmrec.metrics.bootstrap import Interval
from llmrec.ranking import registry
from llmrec.ranking.categories import ItemCategories
from llmrec.ranking.rerankers import build_reranker, default_attribute, names
from llmrec.ranking.similarity import JaccardSimilarity


def measured(given: argparse.Namespace) -> RerankingReport:
    """Fit or load the recommender and compare."""
    dataset = load(given.dataset, seed=given.seed)
    split = leave_one_out(dataset.interactions)
    categories = ItemCategories.from_catalogue(
        dataset.catalogue, given.attribute or default_attribute(dataset.catalogue)
    )
    return asyncio.run(
        compare_reranking(
            dataset,
            registry.fitted(given.recommender, dataset, split),
            [build_reranker(name, dataset.catalogue, attribute=categories.name) for name in given.rerankers],
            similarity=JaccardSimilarity(categories),
            categories=categories,
            split=split,
            stage=given.stage,
            n_users=given.users,
            k=given.k,
            seed=given.seed,
        )
    )


def table(report: RerankingReport) -> str:
    """Markdown: values, and below them the change against the list before, paired by user."""
    titles = (f"NDCG@{report.k}", "diversity", "miscalibration")
    lines = [f"| {report.recommender}, {report.n} users | {' | '.join(titles)} |", "|---|" + "---|" * len(titles)]
    for name, row in report.lists.items():
        lines.append(f"| {name} | {' | '.join(_cell(row[measure]) for measure in MEASURES)} |")
        if name != BEFORE:
            change = report.change[name]
            lines.append(f"| change | {' | '.join(_cell(change[measure], sign='+') for measure in MEASURES)} |")
    return "\n".join(lines)


def _cell(value: Interval, *, sign: str = "") -> str:
    return f"{value.value:{sign}.4f} [{value.low:{sign}.4f}, {value.high:{sign}.4f}]"


def main() -> None:
    """Print the table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="films")
    parser.add_argument("--recommender", default="knn", help="a name, or the folder of a saved one")
    parser.add_argument("--rerankers", nargs="+", default=list(names()), choices=names())
    parser.add_argument("--attribute", help="category attribute; default the catalogue's first")
    parser.add_argument("--stage", default="test", choices=["validation", "test"])
    parser.add_argument("--users", type=int, help="sample of users; default all")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    given = parser.parse_args()
    try:
        report = measured(given)
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
    print(table(report))
    if given.json:
        given.json.write_text(json.dumps(report.to_json(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
