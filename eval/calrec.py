"""python eval/calrec.py --data films movielens:DIR amazon:DIR --targets films --out runs/calrec-study

What the stages and the losses of CALRec are worth. One backbone over all data sets (nano of a chosen size, or a given
folder or hub id); stage I over all of them, stage II on each target; arms that leave out a stage, a contrastive term or
both; the order of histories shuffled at test; and heuristics beside them. Leave-one-out, full catalogue ranked, history
left out, the same users for all; differences to the full method are paired by user.

Started again with the same --out it goes on where it stopped. Writes calrec.md and calrec.json there.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from llmrec.assets import asset, load_file
from llmrec.benchmark.protocol import evaluate
from llmrec.data.spec import load
from llmrec.lm.adapters import content_hash
from llmrec.lm.loading import load_backbone
from llmrec.lm.nano import NanoShape
from llmrec.metrics.bootstrap import Interval, bootstrap_means
from llmrec.metrics.ranking import per_user_metrics
from llmrec.ranking import registry
from llmrec.retrieval.base import FloatArray, Recommender
from llmrec.retrieval.calrec import CalrecConfig, CalrecRecommender
from llmrec.retrieval.item_knn import ItemKnnRecommender
from llmrec.retrieval.lastitem import LastItemRecommender
from llmrec.retrieval.popularity import PopularityRecommender
from llmrec.retrieval.repeat import RepeatRecommender
from llmrec.seeding import rng
from llmrec.training.calrec.data import Domain
from llmrec.training.calrec.recipe import CalrecRecipe
from llmrec.training.pretrain import NanoRecipe, train_nano
from llmrec.training.quiet import quiet_libraries

METRICS = ("recall@1", "recall@10", "ndcg@10", "mrr")
SHAPES = {
    "small": NanoShape(vocabulary_size=8192),
    "large": NanoShape(
        vocabulary_size=8192, embedding_size=256, layers=6, heads=8, key_value_heads=4, intermediate_size=768
    ),
}
CORPORA = {"facts": {"facts": 1.0}, "sequences": {"facts": 0.4, "sequences": 0.6}}


class Arm(NamedTuple):
    """One way of training."""

    stages: tuple[str, ...]
    alpha: float = 0.125
    beta: float = 0.025
    shuffled: bool = False
    """Histories in random order at test."""


FULL = "I+II"
ARMS = {
    FULL: Arm(("I", "II")),
    "II": Arm(("II",)),
    "I": Arm(("I",)),
    "no-TT": Arm(("I", "II"), alpha=0.0),
    "no-UT": Arm(("I", "II"), beta=0.0),
    "neither": Arm(("I", "II"), alpha=0.0, beta=0.0),
    "shuffled": Arm(("I", "II"), shuffled=True),
    "untuned": Arm(()),
}
BASELINES: dict[str, Callable[[], Recommender]] = {
    "popular": PopularityRecommender,
    "knn": ItemKnnRecommender,
    "bm25-lastitem": LastItemRecommender,
    "repeat-last": lambda: RepeatRecommender(form="last"),
    "repeat-history": lambda: RepeatRecommender(form="history"),
    "repeat-filled": lambda: RepeatRecommender(form="filled"),
    "sasrec": lambda: registry.build("sasrec"),
}


class Shuffled:
    """A recommender that sees every history in an order of its user's own drawing."""

    def __init__(self, inner: Recommender, *, seed: int) -> None:
        self.inner, self.seed, self.name = inner, seed, "shuffled"

    def fit(self, dataset: Any, split: Any) -> None:
        """As the other's."""
        self.inner.fit(dataset, split)

    async def score(
        self, histories: Sequence[npt.NDArray[np.int64]], *, users: Sequence[int] | None = None, seed: int = 0
    ) -> FloatArray:
        """Scores of shuffled histories, shape (batch, n_items)."""
        keys = users or range(len(histories))
        mixed = [
            rng(self.seed, "shuffle", key).permutation(history) for key, history in zip(keys, histories, strict=True)
        ]
        return await self.inner.score(mixed, users=users, seed=seed)


def main() -> int:
    """Backbone, trainings, evaluations, tables."""
    settings = parser().parse_args()
    out = Path(settings.out)
    out.mkdir(parents=True, exist_ok=True)
    domains = {spec: Domain.of(load(spec, seed=settings.seed)) for spec in dict.fromkeys(settings.data)}
    backbone = settings.backbone or pretrained(list(domains.values()), settings)
    weights = content_hash(Path(backbone)) if Path(backbone).is_dir() else backbone
    for spec in settings.targets or settings.data:
        for name in settings.baselines:
            path = result_path(out, spec, name, settings, weights)
            once(path, partial(measure_baseline, BASELINES[name], domains[spec], settings))
        for name in settings.arms:
            folder = trained(ARMS[name], spec, backbone, settings)
            path = result_path(out, spec, name, settings, weights)
            once(path, partial(measure_arm, ARMS[name], folder, backbone, domains[spec], settings))
        write_tables(out, domains, settings, weights)
    print((out / "calrec.md").read_text(encoding="utf-8"))
    return 0


def parser() -> argparse.ArgumentParser:
    """Arguments."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = arguments.add_argument
    add("--data", nargs="+", default=["films"], help="specs of all data sets: stage I, and the backbone's corpus")
    add("--targets", nargs="*", default=[], help="those of --data that stage II and the tables are about; default all")
    add("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    add("--baselines", nargs="*", choices=list(BASELINES), default=list(BASELINES), help="sasrec trains for minutes")
    add("--users", type=int, default=1000, help="test users per target")
    add("--examples", type=int, default=4000, help="training examples of each stage")
    add("--samples", type=int, default=32, help="completions per user at test")
    add("--out", default="runs/calrec-study")
    add("--backbone", help="folder or hub id; default trains nano on --data")
    add("--nano-size", choices=list(SHAPES), default="small")
    add("--tokens", type=int, default=6_000_000, help="tokens that nano is pretrained on")
    add("--corpus", choices=list(CORPORA), default="sequences", help="of nano: item texts alone, or histories too")
    add("--tuning", choices=["lora", "full"], default="lora")
    add("--batch-size", type=int, default=32)
    add("--learning-rate", type=float, default=1e-3)
    add("--max-tokens", type=int, default=512)
    add("--history-items", type=int, default=15)
    add("--validation-users", type=int, default=200, help="users whose NDCG@10 chooses the checkpoint")
    add("--select", choices=["ndcg", "loss"], default="ndcg", help="loss, where ranking costs more than training")
    add("--seed", type=int, default=0)
    return arguments


def pretrained(domains: Sequence[Domain], settings: argparse.Namespace) -> str:
    """Folder of a nano over all data sets."""
    recipe = NanoRecipe(
        shape=SHAPES[settings.nano_size],
        tokens=settings.tokens,
        history_items=settings.history_items,
        mix=CORPORA[settings.corpus],
    )
    first, *others = [(domain.dataset, domain.split) for domain in domains]
    return str(train_nano(*first, recipe, seed=settings.seed, others=others, say=print).path)


def trained(arm: Arm, target: str, backbone: str, settings: argparse.Namespace) -> Path | None:
    """Folder of the arm's weights; None for the backbone as it is."""
    script = load_file(asset("finetune/calrec.py"), name="llmrec_calrec")
    start: Path | None = None
    for stage in arm.stages:
        recipe = stage_recipe(arm, stage, target, start, backbone, settings)
        start = Path(recipe.output)
        if (start / "training.json").exists():
            continue
        print(f"training {start}", flush=True)
        with quiet_libraries():
            script.run(recipe)
    return start


def stage_recipe(
    arm: Arm, stage: str, target: str, start: Path | None, backbone: str, settings: argparse.Namespace
) -> CalrecRecipe:
    """One stage of an arm. Arms that share a stage share its folder."""
    full = settings.tuning == "full"
    recipe = CalrecRecipe.model_validate(
        {
            "stages": stage,
            "domains": settings.data if stage == "I" else [],
            "dataset": target if stage == "II" else settings.data[0],
            "backbone": str(start) if full and start is not None else backbone,
            "start": None if full or start is None else str(start),
            "output": "",
            "tuning": settings.tuning,
            "examples": settings.examples,
            "history_items": settings.history_items,
            "max_tokens": settings.max_tokens,
            "batch_size": settings.batch_size,
            "learning_rate": settings.learning_rate,
            "objective": {"alpha": arm.alpha, "beta": arm.beta},
            "select": settings.select,
            "validation": {"users": settings.validation_users, "samples": 8},
            "seed": settings.seed,
        }
    )
    weights = content_hash(Path(recipe.backbone)) if Path(recipe.backbone).is_dir() else ""
    name = f"stage-{stage}-{digest(recipe.model_dump_json() + weights)}"
    return recipe.model_copy(update={"output": str(Path(settings.out) / "models" / name)})


def recommender(arm: Arm, folder: Path | None, backbone: str, settings: argparse.Namespace) -> Recommender:
    """What an arm recommends with."""
    config = CalrecConfig(history_items=settings.history_items, samples=settings.samples)
    adapter = "recommender" if folder is not None and settings.tuning == "lora" else None
    model = str(folder) if folder is not None and adapter is None else backbone
    lm = load_backbone(model, adapters={adapter: folder} if adapter and folder else None, seed=settings.seed)
    made = CalrecRecommender(lm, adapter=adapter, config=config)
    return Shuffled(made, seed=settings.seed) if arm.shuffled else made


def measure_baseline(make: Callable[[], Recommender], domain: Domain, settings: argparse.Namespace) -> dict[str, Any]:
    """A line of the table."""
    return measured(make(), domain, settings)


def measure_arm(
    arm: Arm, folder: Path | None, backbone: str, domain: Domain, settings: argparse.Namespace
) -> dict[str, Any]:
    """A line of the table."""
    return measured(recommender(arm, folder, backbone, settings), domain, settings)


def measured(model: Recommender, domain: Domain, settings: argparse.Namespace) -> dict[str, Any]:
    """Ranks of the test targets of a seeded sample of users."""
    started = time.monotonic()
    found = asyncio.run(
        evaluate(
            domain.dataset,
            {"model": model},
            n_users=settings.users,
            stage="test",
            seed=settings.seed,
            ks=(1, 10),
            split=domain.split,
            floor="",
            batch_size=64,
        )
    )
    result = found.models["model"]
    return {
        "ranks": result.ranks.tolist(),
        "users": found.users.tolist(),
        "failed": result.failed,
        "protocol": found.protocol,
        "seconds": round(time.monotonic() - started, 1),
    }


def result_path(out: Path, target: str, name: str, settings: argparse.Namespace, weights: str) -> Path:
    """File of one line of a table; other settings or other weights of the backbone, another file."""
    ignored = {"out", "arms", "baselines", "targets"} | (set() if name in ARMS else {"samples", "nano_size"})
    kept = {key: value for key, value in sorted(vars(settings).items()) if key not in ignored}
    kept["backbone"] = weights if name in ARMS else None
    return out / "results" / f"{digest(target)}-{name}-{digest(json.dumps(kept))}.json"


def once(path: Path, measure: Callable[[], dict[str, Any]]) -> None:
    """Measure and write, unless that was done before."""
    if path.exists():
        return
    found = measure()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".partial")
    unfinished.write_text(json.dumps(found), encoding="utf-8")
    unfinished.rename(path)
    print(f"measured {path.name} in {found['seconds']} s", flush=True)


def write_tables(out: Path, domains: dict[str, Domain], settings: argparse.Namespace, weights: str) -> None:
    """calrec.md and calrec.json from whatever is measured already."""
    texts, record = [], {}
    for spec in settings.targets or settings.data:
        paths = {name: result_path(out, spec, name, settings, weights) for name in (*BASELINES, *settings.arms)}
        found = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}
        if not found:
            continue
        values = {name: metric_matrix(line["ranks"]) for name, line in found.items()}
        domain = domains[spec]
        texts.append(table(domain, found, values, settings))
        record[domain.dataset.name] = {
            "n": len(next(iter(found.values()))["users"]),
            "lines": {
                name: dict(zip(METRICS, intervals(rows, settings.seed), strict=True)) for name, rows in values.items()
            },
            "seconds": {name: line["seconds"] for name, line in found.items()},
        }
    (out / "calrec.md").write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    (out / "calrec.json").write_text(json.dumps(record, indent=1), encoding="utf-8")


def table(domain: Domain, found: dict[str, Any], values: dict[str, FloatArray], settings: argparse.Namespace) -> str:
    """Markdown of one target: figures with intervals, then what the full method and stage II alone are above others."""
    any_line = next(iter(found.values()))
    again = np.mean(
        [item in domain.split.history(user, "test") for user, item in zip(*domain.split.targets("test"), strict=True)]
    )
    lines = [
        f"## {domain.dataset.name}",
        "",
        f"n = {len(any_line['users'])} users, seed {settings.seed}; {any_line['protocol']}. "
        f"{again:.1%} of all test targets stand in their user's history, where repetition could find them.",
        "",
        f"| | {' | '.join(METRICS)} | failed |",
        "|---|" + "---|" * (len(METRICS) + 1),
    ]
    for name, rows in values.items():
        cells = [f"{mean:.4f} [{low:.4f}, {high:.4f}]" for mean, low, high in intervals(rows, settings.seed)]
        lines.append(f"| {name} | {' | '.join(cells)} | {found[name]['failed']} |")
    for base in (FULL, "II"):
        if base in values:
            lines += ["", *differences(base, values, settings.seed)]
    return "\n".join(lines)


def differences(base: str, values: dict[str, FloatArray], seed: int) -> list[str]:
    """Markdown: an arm minus each other line, paired by user."""
    lines = [f"| {base} minus | {' | '.join(METRICS)} |", "|---|" + "---|" * len(METRICS)]
    for name, rows in values.items():
        if name != base:
            found = intervals(values[base] - rows, seed)
            cells = [f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]" for mean, low, high in found]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def metric_matrix(ranks: Sequence[int]) -> FloatArray:
    """One row per user, one column per metric."""
    found = per_user_metrics(np.asarray(ranks, dtype=np.int64), (1, 10))
    return np.stack([found[name] for name in METRICS], axis=1)


def intervals(rows: FloatArray, seed: int) -> list[Interval]:
    """Mean and bounds of every column."""
    return bootstrap_means(rows, seed=seed)


def digest(text: str) -> str:
    """Ten hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:10]


if __name__ == "__main__":
    raise SystemExit(main())
