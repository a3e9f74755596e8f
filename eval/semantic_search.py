"""python eval/semantic_search.py --backbone runs/semantic/backbone --queries 500

How well the backbone with id tokens searches (finetune/semantic_ids.yaml, query -> id), beside BM25 over all text.
Queries are pieces of titles, or attributes that an item has; they are drawn like those of the training, with another
seed, so many coincide, short pieces of titles above all. hit@10: the item that a query was drawn from is among ten;
answers@10: the share of ten places whose item has the whole piece in its title, or all attributes. The floor draws
items at random. 95 % bootstrap over queries.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from llmrec.data.catalogue import Catalogue
from llmrec.data.spec import load
from llmrec.data.splits import leave_one_out
from llmrec.errors import ConfigError, LlmrecError
from llmrec.lm.loading import load_backbone
from llmrec.metrics.bootstrap import bootstrap_mean
from llmrec.ranking.registry import build
from llmrec.retrieval.bm25 import Bm25Index
from llmrec.seeding import rng
from llmrec.training.semantic.queries import attribute_phrases, search_query, title_words

K = 10


class Query(NamedTuple):
    """What a person types."""

    text: str
    kind: str
    """title or attributes."""
    item: int
    """The item it was drawn from."""
    answers: npt.NDArray[np.bool_]
    """Which items answer it, shape (n_items,)."""


def draw_queries(catalogue: Catalogue, n: int, seed: int) -> list[Query]:
    """Queries from items drawn evenly; items of which nothing is known give none."""
    draws = rng(seed, "semantic-search")
    titles = [f" {' '.join(title_words(catalogue, row)).casefold()} " for row in range(len(catalogue))]
    phrases = [set(attribute_phrases(catalogue, row)) for row in range(len(catalogue))]
    queries = []
    for row in draws.integers(len(catalogue), size=n).tolist():
        drawn = search_query(catalogue, row, draws)
        if drawn is None:
            continue
        asked = set(drawn.phrases)
        if asked:
            answers, kind = np.array([asked <= own for own in phrases]), "attributes"
        else:
            answers, kind = np.array([f" {drawn.text.casefold()} " in title for title in titles]), "title"
            answers[row] = True  # also where markup was taken out of the piece
        queries.append(Query(drawn.text, kind, row, answers))
    return queries


def measured(lists: Sequence[Sequence[int]], queries: Sequence[Query]) -> dict[str, Any]:
    """hit@10 and answers@10 by kind of query; a catalogue without attributes gives queries of one kind alone."""
    found: dict[str, Any] = {}
    for kind in sorted({query.kind for query in queries}, reverse=True):
        pairs = [(own, query) for own, query in zip(lists, queries, strict=True) if query.kind == kind]
        hits = [query.item in own[:K] for own, query in pairs]
        shares = [query.answers[list(own[:K])].sum() / K for own, query in pairs]
        found[kind] = {
            f"hit@{K}": bootstrap_mean(np.array(hits, dtype=float), seed=0)._asdict(),
            f"answers@{K}": bootstrap_mean(np.array(shares, dtype=float), seed=0)._asdict(),
            "n": len(pairs),
        }
    return found


def compared(options: argparse.Namespace) -> dict[str, Any]:
    """The lists of the model, of BM25 and of chance, for the same queries."""
    data = load(options.dataset, seed=options.seed)
    catalogue = data.catalogue
    queries = draw_queries(catalogue, options.queries, options.seed)
    if not queries:
        raise ConfigError(f"{data.name} gives no query: its items have neither titles nor attributes")
    lm = load_backbone(options.backbone, seed=options.seed)
    model: Any = build("semantic-lm", lm=lm)
    model.fit(data, leave_one_out(data.interactions))
    started = time.perf_counter()
    own: list[list[int]] = []
    for start in range(0, len(queries), 32):
        texts = [query.text for query in queries[start : start + 32]]
        own += [found.items.tolist() for found in asyncio.run(model.search_many(texts, K))]
    seconds = time.perf_counter() - started
    index = Bm25Index([catalogue.document(row) for row in range(len(catalogue))])
    words = [[row for row, _ in index.top(query.text, K)] for query in queries]
    chance = rng(options.seed, "semantic-search-chance")
    drawn = [chance.permutation(len(catalogue))[:K].tolist() for _ in queries]
    return {
        "dataset": data.name,
        "backbone": lm.name,
        "seed": options.seed,
        "ms_per_query": 1000 * seconds / len(queries),
        "rows": {
            "random": measured(drawn, queries),
            "BM25": measured(words, queries),
            "semantic-lm": measured(own, queries),
        },
    }


def show(answer: dict[str, Any]) -> None:
    """The table as Markdown."""
    rows = answer.pop("rows")
    print(", ".join(f"{name} {value}" for name, value in answer.items()) + "\n")
    sizes = {kind: row["n"] for kind, row in rows["BM25"].items()}
    columns = [(kind, metric) for kind in sizes for metric in (f"hit@{K}", f"answers@{K}")]
    print(f"| | {' | '.join(f'{kind} ({sizes[kind]}), {metric}' for kind, metric in columns)} |")
    print("| --- |" + " --- |" * len(columns))
    for name, row in rows.items():
        cells = [row[kind][metric] for kind, metric in columns]
        print(f"| {name} | {' | '.join('{value:.3f} [{low:.3f}, {high:.3f}]'.format(**cell) for cell in cells)} |")


def main() -> None:
    """Draw, search, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", required=True, help="backbone/ of a training of finetune/semantic_ids.yaml")
    parser.add_argument("--dataset", default="films")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.queries < 1:
        parser.error(f"--queries must be at least 1, got {options.queries}")
    try:
        answer = compared(options)
    except LlmrecError as error:
        parser.error(str(error))
    if options.json:
        print(json.dumps(answer))
    else:
        show(answer)


if __name__ == "__main__":
    main()
