"""python eval/models_recommend.py --dataset amazon:PATH --model nano=DIR@recommender --model gemma=DIR --out FILE.json

Full-catalogue recommendation by several language models in CALRec's way (samples, grounded by BM25, merged in turn), on
the same sampled users, beside popularity and item-kNN. A model is NAME=BACKBONE, and @ADAPTER or @ADAPTER=FOLDER behind
it names a LoRA adapter. Models that are in the output file already are not run again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from llmrec.benchmark.contestants import Contestant
from llmrec.benchmark.protocol import FLOORS, evaluate
from llmrec.data.dataset import Dataset
from llmrec.data.spec import load
from llmrec.data.splits import Split, leave_one_out
from llmrec.ranking.registry import build
from llmrec.retrieval.base import Recommender
from llmrec.retrieval.calrec import CalrecConfig

SHOWN = ("recall@1", "recall@10", "ndcg@10", "mrr")


def recommender(one: Contestant, options: argparse.Namespace) -> Recommender:
    """CALRec over one model."""
    config = CalrecConfig(samples=options.samples, temperature=options.temperature, inline=options.inline)
    return build("calrec", lm=one.load(seed=options.seed), adapter=one.adapter, config=config)


async def run(dataset: Dataset, split: Split, one: Recommender, name: str, options: argparse.Namespace) -> Any:
    """One recommender's row."""
    result = await evaluate(
        dataset,
        {name: one},
        n_users=options.users,
        seed=options.seed,
        split=split,
        ks=(1, 10),
        batch_size=options.batch,
        progress=lambda model, done, total: print(f"{model}: {done} of {total} users", file=sys.stderr),
    )
    plain = result.to_json()
    return plain["models"][name] | {"n": plain["n"], "failed": plain["failed"].get(name)}


def main() -> None:
    """Run what is missing, write the file, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--model", action="append", default=[], metavar="NAME=BACKBONE[@ADAPTER=DIR]")
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--inline", action="store_true", help="end prompts on the cue's line, for untrained models")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    dataset = load(options.dataset, seed=options.seed)
    split = leave_one_out(dataset.interactions)
    named = ("users", "samples", "temperature", "inline", "seed")
    protocol = {"dataset": dataset.name} | {key: getattr(options, key) for key in named}
    kept = json.loads(options.out.read_text()) if options.out.exists() else {"protocol": protocol, "models": {}}
    if kept["protocol"] != protocol:
        raise SystemExit(f"{options.out} was made with {kept['protocol']}; choose another --out")
    for text in [*FLOORS, *options.model]:
        name = text.partition("=")[0]
        if name in kept["models"]:
            continue
        started = time.monotonic()
        one = recommender(Contestant.parse(text), options) if "=" in text else build(text)
        row = asyncio.run(run(dataset, split, one, name, options))
        kept["models"][name] = row | {"seconds": time.monotonic() - started}
        options.out.write_text(json.dumps(kept, indent=1))
    n = min(row["n"] for row in kept["models"].values())
    print(f"{dataset.name}: n = {n} users, whole catalogue, seed {options.seed}, 95% CI by bootstrap\n")
    print(f"| model | {' | '.join(SHOWN)} | seconds |\n|---|{'---|' * len(SHOWN)}---:|")
    for name, row in kept["models"].items():
        cells = [f"{row[m]['value']:.4f} [{row[m]['low']:.4f}, {row[m]['high']:.4f}]" for m in SHOWN]
        print(f"| {name} | {' | '.join(cells)} | {row['seconds']:.0f} |")


if __name__ == "__main__":
    main()
