"""Results for a report: numbers are invented, shapes come from the code that makes them."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmrec.benchmark.protocol import Evaluation, ModelResult
from llmrec.data.interactions import Interactions
from llmrec.data.splits import Split, leave_one_out
from llmrec.metrics.bootstrap import Interval, paired_difference
from llmrec.metrics.classification import click_metrics
from llmrec.roles.instruction import Instruction, Predicate
from llmrec.seeding import rng
from llmrec.simulate.fidelity import Fidelity
from llmrec.simulate.metrics import click_rate, compare, summarise_run
from llmrec.simulate.session import Compliance, Ending, Round, Session

N_ITEMS = 40
PLANTED = "<script>alert('title')</script> & <b>bold</b>"
TITLES = [
    PLANTED,
    "Alien (1979)",
    "Amélie (2001)",
    "七人の侍 (1954)",
    "A Title That Goes On " * 5,
    "Price $5 or $10 (1990)",
]
TITLES += [f"Film number {row} ({1960 + row})" for row in range(len(TITLES), N_ITEMS)]


def evaluation() -> dict[str, Any]:
    """Five recommenders on 500 users."""
    levels = {"popular": 0.031, "random": 0.002, "knn": 0.052, "bm25-lastitem": 0.036, "calrec": 0.058}
    names = [f"{metric}@{k}" for metric in ("recall", "ndcg") for k in (1, 5, 10, 20)]

    def row(level: float) -> ModelResult:
        values = {name: level * (0.5 + int(name.split("@")[1]) / 12) for name in names}
        return ModelResult(
            metrics={name: Interval(v, v * 0.88, v * 1.13) for name, v in values.items()}
            | {"mrr": Interval(level, 0, 0.1)},
            coverage={f"coverage@{k}": min(level * 8, 1.0) for k in (1, 5, 10, 20)},
            ranks=np.zeros(500, dtype=np.int64),
            fit_s=0.31,
            score_s=level * 300,
            failed=2 if level == 0.058 else 0,
            failures=("the prompt does not fit <the context>",) if level == 0.058 else (),
            note="TF-IDF + SVD" if level == 0.036 else "",
        )

    return Evaluation(
        dataset="films",
        stage="test",
        protocol="leave one out by time, ties by row; test target of 500 users, all 40 items ranked",
        seed=7,
        ks=(1, 5, 10, 20),
        n_items=N_ITEMS,
        users=np.arange(500),
        models={name: row(level) for name, level in levels.items()},
        floor="popular",
        paired={
            "knn": {name: Interval(0.004, -0.003, 0.011) for name in (*names, "mrr")},
            "calrec": {name: Interval(0.027, 0.015, 0.038) for name in (*names, "mrr")},
            "random": {name: Interval(-0.03, -0.04, -0.02) for name in (*names, "mrr")},
        },
    ).to_json()


def fidelity() -> dict[str, Any]:
    """400 balanced decisions."""
    draws = rng(7, "sample")
    truth = np.tile([True, False], 200)
    ours = np.clip(0.5 + 0.16 * np.where(truth, 1, -1) + draws.normal(0, 0.25, 400), 0.01, 0.99)
    floor = (draws.random(400) < np.where(truth, 0.6, 0.42)).astype(float)
    right, floor_right = (ours >= 0.5) == truth, (floor >= 0.5) == truth
    return Fidelity(
        model=click_metrics(truth, ours, seed=0, n_resamples=200),
        popularity=click_metrics(truth, floor, seed=0, n_resamples=200),
        over_popularity=paired_difference(right.astype(float), floor_right.astype(float), seed=0),
        cases=(),
        probabilities=(),
    ).to_json()


def sessions(n: int = 40) -> list[Session]:
    """Sessions of three policies with `n` users."""
    return [_session(user, policy) for policy in ("agent", "popular", "knn") for user in range(n)]


def split(n: int = 40) -> Split:
    """Every user took five items."""
    users = np.repeat(np.arange(n), 5)
    items = (users * 3 + np.tile(np.arange(5), n)) % N_ITEMS
    names = [f"u{user}" for user in range(n)]
    data = Interactions.from_arrays(users, items, np.arange(len(users)), user_ids=names, n_items=N_ITEMS)
    return leave_one_out(data)


def results() -> dict[str, Any]:
    """All parts of a report."""
    played = sessions()
    curve = [{"step": float(s), "tokens": s * 2048.0, "loss": 2.1 + 5.8 * 0.985**s} for s in range(10, 600, 10)]
    tuning = [{"step": float(s), "loss": 1.4 + 1.2 * 0.97**s} for s in range(5, 200, 5)]
    tuning += [{"step": float(s), "validation_loss": 1.55 + 0.9 * 0.97**s} for s in (50, 100, 150, 200)]
    adapter = {"n_train": 4000, "n_validation": 300, "best": 1.5513, "seconds": 71.4, "curve": tuning}
    gap = compare(played, "agent", "popular", click_rate, seed=0)
    return {
        "llmrec": "0.1.0",
        "command": "llmrec quickstart --dataset films --out runs/quickstart --seed 7",
        "seed": 7,
        "dataset": {"spec": "films", "name": "films", "n_items": N_ITEMS, "n_users": 2000, "n_interactions": 60123},
        "machine": {
            "processor": "Some Processor 2.5 GHz",
            "cores": 2,
            "python": "3.11.7",
            "torch": "2.9.0",
            "gpu": None,
        },
        "settings": {
            "preset": "small",
            "nano": {"tokens": 1_800_000, "learning_rate": 3e-3},
            "users": 100,
            "resume": False,
        },
        "backbone": {
            "parameters": 1_312_128,
            "tokens": 1_800_192,
            "seconds": 214.2,
            "hardware": "cpu, float32 (matmul 27 GFLOP/s), torch.compile on",
            "curve": curve,
        },
        "adapters": {"recommender": adapter, "user": {**adapter, "best": 1.2}},
        "evaluation": evaluation(),
        "fidelity": fidelity(),
        "simulation": {
            "policies": summarise_run(played, split(), seed=0),
            "comparisons": [{"first": "agent", "second": "popular", "measure": "click_rate", **gap._asdict()}],
        },
        "transcripts": [s.model_dump(mode="json") for s in played if s.user == 1],
        "out_of_catalogue": {"count": 0, "checked": 5321, "planted_caught": True},
        "stages": [
            {"name": "train nano", "seconds": 214.2, "peak_mib": 1420.5},
            {"name": "fine-tune adapters", "seconds": 142.9, "peak_mib": 1893.0},
            {"name": "simulate", "seconds": 88.0, "peak_mib": None},
        ],
        "total_seconds": 487.3,
        "peak_mib": 2210.4,
    }


def _session(user: int, policy: str) -> Session:
    draws = rng(7, "session", policy, user)
    speaks = policy == "agent"
    rounds: list[Round] = []
    for turn in range(int(draws.integers(1, 6))):
        slate = tuple(int(i) for i in draws.permutation(N_ITEMS)[:5]) if (turn or user != 1) else (0, 1, 3, 4, 5)
        acts = [
            str(a)
            for a in draws.choice(
                ["skip", "view", "click", "like", "rate", "dislike"], 4, p=[0.4, 0.1, 0.2, 0.15, 0.1, 0.05]
            )
        ]
        shown = [
            {"item": i, "action": a} | ({"rating": 4} if a == "rate" else {}) for i, a in zip(slate, acts, strict=False)
        ]
        events = (
            {
                "name": "search",
                "arguments": {"query": "dark <sea>", "year_min": None, "genres": ["Drama"]},
                "n_before": 0,
                "n_after": 12,
                "note": "",
                "error": "",
            },
            {
                "name": "filter",
                "arguments": {"genre": "Sea"},
                "n_before": 12,
                "n_after": 12,
                "note": "",
                "error": "no genre 'Sea'; nearest: Sci-Fi",
            },
        )
        asked = Instruction(
            kind="less_of",
            attribute="genres",
            value="Horror",
            say="no more horror, please <img src=x>",
            predicate=Predicate(mode="none", attribute="genres", values=("Horror",)),
        )
        rounds.append(
            Round(
                turn=turn,
                slate=slate,
                titles=tuple(TITLES[row] for row in slate),
                out_of_catalogue=(),
                reasons=("because you liked Alien (1979)",) * 5,
                prose="Here are five films with less horror." if speaks else "",
                events=events if speaks else (),
                notes=("no instruction could be written",) if turn == 3 else (),
                shown=(*shown, {"item": slate[4], "action": "leave"}),
                clicks=tuple(float(c) for c in draws.random(4).round(3)),
                mindset={"satisfaction": 0.41, "fatigue": 0.2, "patience": 1.5, "disengagement": 0.6},
                instruction=asked if speaks else None,
                second_chance=True if speaks else None,
                compliance=Compliance(kind="less_of", before=0.2, after=0.8) if speaks and turn else None,
            )
        )
    endings: list[Ending] = ["out of patience", "gave up after asking", "round limit"]
    return Session(
        user=user,
        user_id=f"u{user}",
        policy=policy,
        slate_size=5,
        profile={"age_group": "25-34", "occupation": "<i>engineer</i>"},
        likes=("Drama", "Sci-Fi"),
        wants=("Drama",),
        n_history=23,
        rounds=tuple(rounds),
        ended=endings[int(draws.integers(3))],
        summary="Saw 5 films; liked Alien (1979).",
        seconds=1.25,
    )
