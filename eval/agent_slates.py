"""python eval/agent_slates.py --backbone runs/quickstart/backbone --agent bm25=bm25-lastitem --agent blend=DIR+DIR

What the tools behind the agent are worth: the agent's first slate, before the user has said anything, against the
user's held-out items, for several choices of what stands behind its tools recommend and rank. The same users for all;
differences to the first agent are paired by user.

An agent is NAME=RECOMMENDER or NAME=RECOMMENDER+RANKER; each is a name of the registry or the folder of a saved one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.data.dataset import Dataset
from llmrec.data.spec import load
from llmrec.data.splits import Split, leave_one_out
from llmrec.errors import UserError
from llmrec.lm.loading import load_backbone
from llmrec.lm.protocol import LanguageModel
from llmrec.metrics.bootstrap import bootstrap_mean, paired_difference
from llmrec.roles.observation import Observation
from llmrec.seeding import rng
from llmrec.simulate.metrics import slate_ndcg
from llmrec.simulate.policies import Policy, build_policies


def agent(text: str, dataset: Dataset, split: Split, lm: LanguageModel, slate: int) -> tuple[str, Policy]:
    """The agent that an argument names."""
    name, equals, behind = text.partition("=")
    recommender, _, ranker = behind.partition("+")
    if not equals or not recommender:
        raise SystemExit(f"--agent takes NAME=RECOMMENDER or NAME=RECOMMENDER+RANKER, got {text!r}")
    settings = {"recommender": recommender} | ({"ranker": ranker} if ranker else {})
    return name, build_policies(["agent"], dataset, split, lm, slate_size=slate, agent=settings)[0]


async def slates(policy: Policy, users: list[int], split: Split, slate: int, seed: int, at_once: int) -> dict[str, Any]:
    """NDCG per user, items outside the catalogue, and the tools that were called."""
    gate = asyncio.Semaphore(at_once)
    n_items = split.train.n_items

    async def one(user: int) -> tuple[float, int, list[str]]:
        async with gate:
            history = tuple(int(item) for item in split.train.history(user))
            reply = await policy.recommend(Observation(history=history), user=user, slate_size=slate, seed=seed)
            strangers = sum(not 0 <= item < n_items for item in reply.slate)
            return slate_ndcg(reply.slate, user, split, size=slate), strangers, [event.name for event in reply.events]

    found = await asyncio.gather(*(one(user) for user in users))
    tools = [" > ".join(names) for _, _, names in found]
    return {
        "ndcg": [value for value, _, _ in found],
        "outside": sum(count for _, count, _ in found),
        "plans": {plan: tools.count(plan) for plan in sorted(set(tools), key=lambda plan: -tools.count(plan))[:5]},
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--dataset", default="films")
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--agent", action="append", required=True, metavar="NAME=RECOMMENDER[+RANKER]")
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--slate", type=int, default=10)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the figures of every user as JSON")
    options = parser.parse_args()
    dataset = load(options.dataset, seed=options.seed)
    split = leave_one_out(dataset.interactions)
    n = min(options.users, len(split.users))
    users = np.sort(rng(options.seed, "agent slates").choice(split.users, size=n, replace=False)).tolist()
    results: dict[str, dict[str, Any]] = {}
    try:
        lm = load_backbone(options.backbone, seed=options.seed)
        for text in options.agent:
            name, policy = agent(text, dataset, split, lm, options.slate)
            print(f"{name} ...", file=sys.stderr)
            results[name] = asyncio.run(slates(policy, users, split, options.slate, options.seed, options.concurrency))
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
    if options.out:
        options.out.write_text(json.dumps({"dataset": options.dataset, "users": users, "agents": results}))
    base, first = next(iter(results.items()))
    print(f"{dataset.name}: first slate of {options.slate}, n = {n} users, held-out items are the validation and the")
    print(f"test item, seed {options.seed}, 95 % bootstrap over users, backbone {lm.name}\n")
    print(f"| agent | NDCG@{options.slate} | minus {base} | outside the catalogue |\n| --- | --- | --- | ---: |")
    for name, result in results.items():
        own = bootstrap_mean(result["ndcg"], seed=0)
        gap = paired_difference(result["ndcg"], first["ndcg"], seed=0)
        difference = "–" if name == base else f"{gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]"
        print(f"| {name} | {own.value:.4f} [{own.low:.4f}, {own.high:.4f}] | {difference} | {result['outside']} |")
    for name, result in results.items():
        print(f"- {name}: plans {result['plans']}")


if __name__ == "__main__":
    main()
