"""python eval/bench_training.py --vocabulary 8192

What it is worth on a CPU that a process keeps the memory its tensors free (`llmrec.lm.allocator`): steps of nano's
pre-training with and without, each in a process of its own, turn about. CPU seconds, not wall time, so that other work
on the machine hardly counts. Ends with one line of JSON; ratio above 1: keeping is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

from llmrec.lm.allocator import keep_freed_memory
from llmrec.lm.hardware import choose
from llmrec.lm.nano import NanoShape
from llmrec.seeding import rng

BLOCK, BLOCKS = 256, 8  # as `NanoRecipe` has them
NAMES = {"1": "kept", "0": "given back"}


def steps(n: int, vocabulary: int) -> dict[str, float]:
    """CPU seconds and page faults of a step, not compiled, after two steps that get the first memory."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    hardware = choose(device="cpu", purpose="training")
    shape = NanoShape(vocabulary_size=vocabulary)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=shape.vocabulary_size,
        hidden_size=shape.embedding_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        head_dim=shape.head_size,
        intermediate_size=shape.intermediate_size,
        tie_word_embeddings=True,
    )
    model = Qwen3ForCausalLM(config).train()
    optimiser = torch.optim.AdamW(model.parameters())
    ids = torch.from_numpy(rng(0, "bench").integers(shape.vocabulary_size, size=(BLOCKS, BLOCK)))
    for place in range(n + 2):
        if place == 2:
            started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=hardware.dtype == torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return {"cpu_s": (time.process_time() - started) / n, "faults": faults / n, "kept": keep_freed_memory()}


def measured(keep: str, given: argparse.Namespace) -> dict[str, float]:
    """`steps` in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--steps", str(given.steps), "--vocabulary", str(given.vocabulary), "--one"],
        env=os.environ | {"LLMREC_KEEP_MEMORY": keep},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    if found["kept"] != (keep == "1"):
        raise SystemExit("error: freed memory cannot be kept here: no mallopt, or MALLOC_* or GLIBC_TUNABLES are set")
    return found


def main() -> None:
    """Rounds, a line for each, the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--vocabulary", type=int, default=NanoShape().vocabulary_size, help="logits decide the sizes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(steps(given.steps, given.vocabulary)))
        return
    print(choose(device="cpu", purpose="training").note)
    rounds = []
    for number in range(given.rounds):
        found = {name: measured(keep, given) for keep, name in NAMES.items()}
        rounds.append(found)
        texts = [f"{name} {one['cpu_s']:.3f} CPU s, {one['faults']:,.0f} page faults" for name, one in found.items()]
        print(f"round {number + 1}, a step: {'; '.join(texts)}", flush=True)
    ratios = [found["given back"]["cpu_s"] / found["kept"]["cpu_s"] for found in rounds]
    print(json.dumps({"ratio": round(statistics.median(ratios), 2), "low": min(ratios), "high": max(ratios)}))


if __name__ == "__main__":
    main()
