"""What a run of sessions says about its policies. Everything here is simulated: captions must say so.

Means are over sessions (each session one value), so intervals are about users, not about items. A session that failed
counts with what happened until then, and in the number of failed sessions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from llmrec.data.splits import Split
from llmrec.errors import ConfigError
from llmrec.metrics.bootstrap import Interval, bootstrap_mean, paired_difference
from llmrec.simulate.session import Session

CLICKS = frozenset({"click", "like", "dislike", "rate", "buy"})
"""Public actions that mean that an item was taken."""


def decided(session: Session) -> list[str]:
    """Actions on items that the user decided on (a leave is none)."""
    return [str(one["action"]) for r in session.rounds for one in r.shown if one["action"] != "leave"]


def n_clicks(session: Session) -> int:
    """Items that were taken."""
    return sum(action in CLICKS for action in decided(session))


def click_rate(session: Session) -> float:
    """Share of decided items that were taken; 0 when nothing was decided."""
    actions = decided(session)
    return n_clicks(session) / len(actions) if actions else 0.0


def instruction_rate(session: Session) -> float:
    """Share of rounds after which the user said what should change; 0 without rounds."""
    return sum(r.instruction is not None for r in session.rounds) / len(session.rounds) if session.rounds else 0.0


def checked_compliance(session: Session) -> list[tuple[str, float, float]]:
    """(class, share before, share after) of every checkable instruction that was followed by a slate."""
    found = [r.compliance for r in session.rounds if r.compliance is not None]
    return [(c.kind, c.before, c.after) for c in found if c.before is not None and c.after is not None]


def out_of_catalogue(session: Session) -> int:
    """Things in slates that are no items."""
    return sum(len(r.out_of_catalogue) for r in session.rounds)


def first_slate_ndcg(session: Session, split: Split) -> float:
    """NDCG of the first slate against the user's held-out items (validation and test), at the slate size. A proxy."""
    return slate_ndcg(session.rounds[0].slate if session.rounds else (), session.user, split, size=session.slate_size)


def slate_ndcg(slate: Sequence[int], user: int, split: Split, *, size: int) -> float:
    """NDCG of a slate against the user's held-out items (validation and test).

    Args:
        slate: catalogue rows, best first.
        size: length that the slate could have had; the ideal slate is cut there.

    Raises:
        ConfigError: the split has no held-out items of this user.
    """
    place = int(np.searchsorted(split.users, user))
    if place >= len(split.users) or int(split.users[place]) != user:
        raise ConfigError(f"user {user!r} is not among the evaluated users of the split")
    held_out = {int(item) for item in (split.validation[place], split.test[place]) if item >= 0}
    gain = sum(1.0 / np.log2(rank + 2.0) for rank, item in enumerate(slate) if item in held_out)
    ideal = sum(1.0 / np.log2(rank + 2.0) for rank in range(min(len(held_out), size)))
    return float(gain / ideal) if ideal else 0.0


def summarise_run(sessions: Sequence[Session], split: Split, *, seed: int) -> dict[str, Any]:
    """Per policy: distributions and means with bootstrap intervals, as plain JSON values.

    Args:
        sessions: of one run.
        split: for the proxy accuracy of first slates.
        seed: of the bootstrap.
    """
    policies = sorted({session.policy for session in sessions})
    return {name: _policy([s for s in sessions if s.policy == name], split, seed) for name in policies}


def agent_turns(sessions: Sequence[Session], *, seed: int) -> dict[str, Any] | None:
    """What the turns of an agent took: calls, repairs, kept constraints, tokens, seconds; None for other policies.

    Shares are over all calls or turns of the sessions. `constraints.kept` is the share of turns with something refused
    whose slate has none of it; whether the model read the refusal at all is another question, see `corrections`. A turn
    in which the model failed ends its session: it is in `failed_turns` and in nothing else.
    """
    rounds = [r for s in sessions for r in s.rounds if r.record]
    if not rounds:
        return None
    logs = [r.record for r in rounds]
    asked, valid, repaired, refused = (
        sum(int(log[f"calls_{kind}"]) for log in logs) for kind in ("asked", "valid", "repaired", "refused")
    )
    checked = [r.constraints for r in rounds if r.constraints is not None]
    refusing = [one.kept for one in checked if one.refused]
    wanted = [one.wanted_share for one in checked if one.wanted_share is not None]
    steps = sorted({step for log in logs for step in log["seconds"]})
    repairs: Counter[str] = Counter()
    for log in logs:
        repairs.update(log["repairs"])
    return {
        "turns": len(rounds),
        "failed_turns": sum(session.failed is not None for session in sessions),
        "calls": {
            "asked": asked,
            "valid_share": valid / asked if asked else None,
            "repaired_share": repaired / valid if valid else None,
            "refused_share": refused / valid if valid else None,
        },
        "repairs": dict(sorted(repairs.items())),
        "corrections": sum(len(log["corrections"]) for log in logs),
        "constraints": {
            "n": len(refusing),
            "kept": float(np.mean(refusing)) if refusing else None,
            "wanted_share": float(np.mean(wanted)) if wanted else None,
        },
        "model_calls_per_turn": float(np.mean([log["model_calls"] for log in logs])),
        "tokens_per_turn": float(np.mean([log["tokens_written"] for log in logs])),
        "seconds_per_turn": bootstrap_mean([sum(log["seconds"].values()) for log in logs], seed=seed)._asdict(),
        "seconds_per_step": {step: float(np.mean([log["seconds"].get(step, 0.0) for log in logs])) for step in steps},
    }


def compare(
    sessions: Sequence[Session], first: str, second: str, value: Callable[[Session], float], *, seed: int
) -> Interval:
    """Mean of `value` under the first policy minus the second, over the users that met both."""
    a = {s.user: value(s) for s in sessions if s.policy == first}
    b = {s.user: value(s) for s in sessions if s.policy == second}
    users = sorted(a.keys() & b.keys())
    return paired_difference([a[user] for user in users], [b[user] for user in users], seed=seed)


def _policy(sessions: Sequence[Session], split: Split, seed: int) -> dict[str, Any]:
    def mean(values: Sequence[float]) -> dict[str, float] | None:
        return None if not values else bootstrap_mean(values, seed=seed)._asdict()

    lengths = [len(s.rounds) for s in sessions]
    checked = [one for s in sessions for one in checked_compliance(s)]
    by_session = [np.mean([after for _, _, after in checks]) for s in sessions if (checks := checked_compliance(s))]
    before = [np.mean([share for _, share, _ in checks]) for s in sessions if (checks := checked_compliance(s))]
    return {
        "simulated": True,
        "n": len(sessions),
        "failed": sum(s.failed is not None for s in sessions),
        "rounds": mean([float(n) for n in lengths]),
        "rounds_distribution": _distribution(lengths),
        "items": mean([float(len(decided(s))) for s in sessions]),
        "clicks": mean([float(n_clicks(s)) for s in sessions]),
        "click_rate": mean([click_rate(s) for s in sessions]),
        "actions": dict(sorted(Counter(str(o["action"]) for s in sessions for r in s.rounds for o in r.shown).items())),
        "instruction_rate": mean([instruction_rate(s) for s in sessions]),
        "instructions": dict(
            sorted(Counter(r.instruction.kind for s in sessions for r in s.rounds if r.instruction).items())
        ),
        "unwritten_instructions": sum(
            n.startswith("no instruction") for s in sessions for r in s.rounds for n in r.notes
        ),
        "compliance": {
            "n": len(checked),
            "before": mean([float(x) for x in before]),
            "after": mean([float(x) for x in by_session]),
        },
        "compliance_by_class": _by_class(checked),
        "endings": dict(sorted(Counter(s.ended for s in sessions).items())),
        "out_of_catalogue": sum(out_of_catalogue(s) for s in sessions),
        "satisfaction_at_end": mean(
            [float(s.rounds[-1].mindset["satisfaction"]) for s in sessions if s.rounds and s.rounds[-1].mindset]
        ),
        "agent": agent_turns(sessions, seed=seed),
        "first_slate_ndcg": mean([first_slate_ndcg(s, split) for s in sessions]),
        "seconds_per_session": float(np.mean([s.seconds for s in sessions])),
    }


def _by_class(checked: Sequence[tuple[str, float, float]]) -> Mapping[str, Any]:
    kinds = sorted({kind for kind, _, _ in checked})
    rows = {kind: [(before, after) for name, before, after in checked if name == kind] for kind in kinds}
    return {
        kind: {"n": len(r), "before": float(np.mean([b for b, _ in r])), "after": float(np.mean([a for _, a in r]))}
        for kind, r in rows.items()
    }


def _distribution(values: Sequence[int]) -> dict[str, int]:
    return {str(value): n for value, n in sorted(Counter(values).items())}
