"""Speed of decoding semantic ids: the package's beam search against transformers' `generate`, in one run.

    python eval/bench_decoding.py                    # 12,001 items, beam 20, 32 users, 64 and 192 prompt tokens
    python eval/bench_decoding.py --threads 2        # as the figures in the documentation were taken
    python eval/bench_decoding.py --scale            # and the table at 100,000 and a million synthetic items
    python eval/bench_decoding.py --quick            # a small one, for tests

A random Qwen3-shaped model of 9.8 M weights, three codes of 256 and a collision code, fp32. All three ways must give
the same items with the same scores. The last line is JSON; `ratio_64` is the time of `generate` with
`prefix_allowed_tokens_fn` over that of the package, at 64 prompt tokens, best of the repeats each.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from llmrec.benchmark.machine import peak_memory_mib
from llmrec.lm.branches import best_layout
from llmrec.seeding import rng
from llmrec.semid.beam import BeamResult, BeamSettings, beam_search
from llmrec.semid.device_table import DeviceTable
from llmrec.semid.filters import ItemFilter
from llmrec.semid.prefix_table import IntArray, PrefixTable
from llmrec.semid.processor import TableLogitsProcessor, prefix_allowed_tokens_fn

CODES = 256
TOLERANCE = 1e-4  # of scores of two ways, fp32: sums in another order


@dataclass(frozen=True)
class Size:
    """What is measured."""

    items: int = 12_001
    users: int = 32
    beams: int = 20
    lengths: tuple[int, ...] = (64, 192)
    layers: int = 6
    heads: int = 6
    head_dim: int = 64
    repeats: int = 2
    turn_s: float = 3.0
    """Seconds that a way is repeated for in its turn."""


QUICK = Size(items=500, users=3, beams=6, lengths=(12, 20), layers=2, heads=4, head_dim=8, repeats=1, turn_s=0.0)


def synthetic_paths(n_items: int, n_codes: int = CODES) -> IntArray:
    """Three codes and a collision code, with global token numbers; codes are skewed as real ones are."""
    draw = rng(0, "paths", n_items)
    codes = (n_codes * draw.random((n_items, 3)) ** 1.5).astype(np.int64)
    order = np.lexsort(codes.T)
    same = np.zeros(n_items, dtype=np.int64)
    repeated = (codes[order][1:] == codes[order][:-1]).all(axis=1)
    for place in np.flatnonzero(repeated) + 1:
        same[place] = same[place - 1] + 1
    collision = np.empty(n_items, dtype=np.int64)
    collision[order] = same
    return np.column_stack([codes + np.arange(3) * n_codes, collision + 3 * n_codes])


def random_model(size: Size, n_tokens: int) -> Any:
    """A Qwen3-shaped model; wide initial weights, so that no two items have nearly the same score."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=n_tokens + 64,
        hidden_size=size.heads * size.head_dim,
        intermediate_size=size.heads * size.head_dim * 8 // 3,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=2,
        head_dim=size.head_dim,
        max_position_embeddings=512,
        initializer_range=0.1,
        tie_word_embeddings=True,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Qwen3ForCausalLM(config).eval()


def by_generate(model: Any, prompts: torch.Tensor, table: PrefixTable, size: Size, **rule: Any) -> Any:
    """transformers' beam search under a rule; (sequences, scores) of all beams."""
    out = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        num_beams=size.beams,
        num_return_sequences=size.beams,
        max_new_tokens=table.depth,
        length_penalty=0.0,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,  # else it keeps no sequences_scores
        **rule,
    )
    return out.sequences[:, prompts.shape[1] :], out.sequences_scores


class Timed(NamedTuple):
    """One run, the fastest of several."""

    s: float
    """Seconds on the clock."""
    cpu_s: float
    """Seconds of all threads: tells more where other programs run."""
    result: Any


def best_time(run: Callable[[], Any], repeats: int, *, at_least_s: float = 0.0) -> Timed:
    """Time a call: the fastest of so many repeats, and of more until they have taken `at_least_s` together."""
    runs: list[Timed] = []
    while len(runs) < repeats or sum(one.s for one in runs) < at_least_s:
        start, cpu = time.perf_counter(), time.process_time()
        result = run()
        runs.append(Timed(time.perf_counter() - start, time.process_time() - cpu, result))
    return min(runs, key=lambda one: one.s)


def best_in_turn(calls: Sequence[Callable[[], Any]], rounds: int, turn_s: float) -> list[Timed]:
    """Time several calls in turn, so that a busy minute of the machine does not fall on one of them alone.

    A short call is repeated within its turn: one alone would pay for the caches that another way has filled.
    """
    timed = [[best_time(call, 1, at_least_s=turn_s) for call in calls] for _ in range(rounds)]
    return [min(runs, key=lambda one: one.s) for runs in zip(*timed, strict=True)]


def compare(mine: BeamResult, sequences: torch.Tensor, scores: torch.Tensor, table: PrefixTable, size: Size) -> float:
    """Largest difference of scores; the items must be the same."""
    if len(table.illegal(sequences.numpy())):
        raise SystemExit("generate wrote an illegal id")
    nodes = table.walk(sequences.numpy())
    items = table.items[table.lo[nodes]].reshape(size.users, size.beams)
    other: npt.NDArray[np.float64] = scores.double().numpy().reshape(size.users, size.beams)
    largest = 0.0
    for found, rows, values in zip(mine.found, items, other, strict=True):
        if set(found.items) != set(rows):
            raise SystemExit(f"other items: {found.items.tolist()} here, {rows.tolist()} from generate")
        largest = max(largest, float(np.abs(np.sort(found.scores) - np.sort(values)).max()))
    if largest > TOLERANCE:
        raise SystemExit(f"scores differ by {largest}")
    return largest


def ways(size: Size) -> dict[str, Any]:
    """Seconds of each way at each prompt length."""
    start = time.perf_counter()
    table = PrefixTable.from_paths(synthetic_paths(size.items))
    result: dict[str, Any] = {"build_s": round(time.perf_counter() - start, 4), "table_mb": table.nbytes / 1e6}
    device_table = DeviceTable(table)
    model = random_model(size, table.n_tokens)
    result["parameters_m"] = round(sum(p.numel() for p in model.parameters()) / 1e6, 2)
    settings = BeamSettings(beams=size.beams, k=size.beams)
    layout = best_layout(model)
    print(f"{result['parameters_m']} M weights, {size.items} items, beam {size.beams}, {size.users} users, {layout}")
    for length in size.lengths:
        draw = rng(0, "prompts", length)
        prompts = torch.from_numpy(draw.integers(0, table.n_tokens, (size.users, length)))

        def own(prompts: torch.Tensor = prompts) -> Any:
            return beam_search(model, prompts.tolist(), device_table, settings=settings, layout=layout)

        def processed(prompts: torch.Tensor = prompts, length: int = length) -> Any:
            rule = TableLogitsProcessor(device_table, prompt_length=length)
            return by_generate(model, prompts, table, size, logits_processor=[rule])

        def called(prompts: torch.Tensor = prompts, length: int = length) -> Any:
            rule = prefix_allowed_tokens_fn(table, prompt_length=length)
            return by_generate(model, prompts, table, size, prefix_allowed_tokens_fn=rule)

        mine, other, third = best_in_turn((own, processed, called), size.repeats, size.turn_s)
        difference = max(compare(mine.result, one.result[0], one.result[1], table, size) for one in (other, third))
        for name, one in (("own", mine), ("processor", other), ("function", third)):
            result[f"{name}_{length}_s"] = round(one.s, 3)
        result[f"ratio_{length}"] = round(third.s / mine.s, 1)
        result[f"cpu_ratio_{length}"] = round(third.cpu_s / mine.cpu_s, 1)
        result[f"difference_{length}"] = difference
        print(
            f"{length:4d} prompt tokens: own {mine.s:7.2f} s   generate + processor {other.s:7.2f} s   "
            f"generate + prefix_allowed_tokens_fn {third.s:7.2f} s   ratio {result[f'ratio_{length}']:5.1f} "
            f"({result[f'cpu_ratio_{length}']:.1f} in CPU seconds)   scores differ by {difference:.1e}"
        )
    return result


def scale(size: Size, counts: tuple[int, ...]) -> dict[str, Any]:
    """Table, one decode and filters at larger catalogues."""
    result: dict[str, Any] = {}
    for n_items in counts:
        paths = synthetic_paths(n_items)
        before = peak_memory_mib() or 0.0
        start = time.perf_counter()
        table = PrefixTable.from_paths(paths)
        build_s = time.perf_counter() - start
        added = (peak_memory_mib() or 0.0) - before
        model = random_model(size, table.n_tokens)
        draw = rng(0, "scale", n_items)
        prompts = draw.integers(0, table.n_tokens, (size.users, 64)).tolist()
        settings = BeamSettings(beams=size.beams, k=10 if size.beams >= 10 else size.beams)
        half = np.flatnonzero(draw.random(n_items) < 0.5)
        filters = [ItemFilter(half, draw.integers(0, n_items, 50)) for _ in prompts]
        device_table, layout = DeviceTable(table), best_layout(model)
        search = partial(beam_search, model, prompts, device_table, settings=settings, layout=layout)
        free_s = best_time(search, size.repeats).s
        filtered_s, _, found = best_time(partial(search, filters=filters), size.repeats)
        allowed = set(half.tolist())
        for one, rule in zip(found.found, filters, strict=True):
            if not set(one.items.tolist()) <= allowed - set(np.asarray(rule.excluded).tolist()):
                raise SystemExit("a filtered item came back")
        print(
            f"{n_items:8d} items: table {build_s:5.2f} s, {table.nbytes / 1e6:6.1f} MB (peak +{added:.0f} MiB), "
            f"{table.n_nodes} nodes; {size.users} users {free_s:5.2f} s, "
            f"half the items and 50 more excluded {filtered_s:5.2f} s"
        )
        figures = {
            "build_s": build_s,
            "mb": table.nbytes / 1e6,
            "peak_mib": added,
            "s": free_s,
            "filtered_s": filtered_s,
        }
        result |= {f"{name}_{n_items}": round(value, 3) for name, value in figures.items()}
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small model and table")
    parser.add_argument("--scale", action="store_true", help="also 100,000 and 1,000,000 items")
    parser.add_argument("--threads", type=int, default=0, help="torch's threads (default: its own choice)")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    size = QUICK if arguments.quick else Size()
    result: dict[str, Any] = {"threads": torch.get_num_threads()} | ways(size)
    if arguments.scale:
        result |= scale(size, (1_000, 5_000) if arguments.quick else (100_000, 1_000_000))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
