"""python eval/understanding.py --backbone runs/quickstart/backbone

How well the recommender reads requests: of the conditions of a message, the share that is read as it was meant (wanted
or refused), on phrasings that the corpus contains and on families of phrasings that it does not. Conditions that nobody
meant count against the model. The floor takes every meant condition as wanted. "checked" is the reading after the words
of the message had the last say on what they refuse (`llmrec.roles.polarity`), as in the agent.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

from llmrec.data.catalogue import Catalogue
from llmrec.data.spec import load
from llmrec.errors import OutputError
from llmrec.lm.loading import load_backbone
from llmrec.lm.protocol import LanguageModel
from llmrec.metrics.bootstrap import bootstrap_mean
from llmrec.roles import understand
from llmrec.roles.brain import GrammarBrain
from llmrec.roles.matching import reader_for
from llmrec.roles.phrases import utterance
from llmrec.roles.polarity import corrected
from llmrec.roles.request import Request
from llmrec.roles.voices import HELD_OUT_FAMILIES, TRAIN_FAMILIES
from llmrec.seeding import rng
from llmrec.tools.wishes import Wish


def polarity(request: Request) -> dict[Wish, str]:
    """Every condition of a request, as wanted or refused."""
    return dict.fromkeys(request.want, "want") | dict.fromkeys(request.avoid, "avoid")


async def read(
    brain: GrammarBrain, catalogue: Catalogue, family: str, number: int, seed: int
) -> dict[str, float] | None:
    """Share of conditions of one message read as meant: model, checked model, floor; None for small talk."""
    message, gold = utterance(catalogue, rng(seed, "understanding", family, number), family=family)
    meant = polarity(gold)
    blank = understand.form(message, reader_for(catalogue))
    try:
        request = await brain.understand(blank, seed=seed)
    except OutputError:
        request = understand.unread(message)
    if not meant:
        return None
    checked, _ = corrected(request, blank.message, blank.found)
    floor = sum(label == "want" for label in meant.values()) / len(meant)
    return {"model": _as_meant(meant, request), "checked": _as_meant(meant, checked), "all wanted": floor}


def _as_meant(meant: dict[Wish, str], request: Request) -> float:
    found = polarity(request)
    keys = meant.keys() | found.keys()
    return sum(meant.get(key) == found.get(key) for key in keys) / len(keys)


async def measure(
    lm: LanguageModel, catalogue: Catalogue, families: tuple[str, ...], n: int, seed: int
) -> dict[str, object]:
    """One row of the table."""
    brain = GrammarBrain(lm, adapter="agent" if "agent" in lm.capabilities.adapters else None)
    work = [read(brain, catalogue, families[i % len(families)], i, seed) for i in range(n)]
    shares = [share for share in await asyncio.gather(*work) if share is not None]
    rows = {name: bootstrap_mean([share[name] for share in shares], seed=seed) for name in shares[0]}
    return {"n": len(shares)} | {name: interval._asdict() for name, interval in rows.items()}


def main() -> None:
    """Print the table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--adapter", type=Path, help="LoRA folder of the agent role")
    parser.add_argument("--dataset", default="films")
    parser.add_argument("--messages", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    catalogue = load(given.dataset, seed=given.seed).catalogue
    lm = load_backbone(given.backbone, adapters={"agent": given.adapter} if given.adapter else {})
    parts = {"phrasings of the corpus": TRAIN_FAMILIES, "other families of phrasings": HELD_OUT_FAMILIES}
    rows = {
        name: asyncio.run(measure(lm, catalogue, families, given.messages, given.seed))
        for name, families in parts.items()
    }
    if given.json:
        print(json.dumps({"dataset": given.dataset, "seed": given.seed, "rows": rows}))
        return
    for name, row in rows.items():
        print(f"{name}: {json.dumps(row)}")


if __name__ == "__main__":
    main()
