"""Agentic recommendation with language models: one backbone, LoRA roles, grounded tools, simulated users.

The import path is the file path (``from llmrec.data.spec import load``). The few names below are the promise that stays
stable; they are imported when they are first used, so ``import llmrec`` costs nothing.

    >>> import asyncio, llmrec
    >>> from llmrec.retrieval.popularity import PopularityRecommender
    >>> films = llmrec.load("films")
    >>> result = asyncio.run(llmrec.evaluate(films, [PopularityRecommender()]))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmrec.benchmark.protocol import evaluate
    from llmrec.data.catalogue import Catalogue
    from llmrec.data.dataset import Dataset
    from llmrec.data.interactions import Interactions
    from llmrec.data.spec import load
    from llmrec.data.splits import leave_one_out
    from llmrec.errors import LlmrecError
    from llmrec.lm.loading import load_backbone
    from llmrec.lm.protocol import LanguageModel, Sampling

__version__ = "0.1.0"

__all__ = [
    "Catalogue",
    "Dataset",
    "Interactions",
    "LanguageModel",
    "LlmrecError",
    "Sampling",
    "__version__",
    "evaluate",
    "leave_one_out",
    "load",
    "load_backbone",
]

_HOMES = {
    "Catalogue": "llmrec.data.catalogue",
    "Dataset": "llmrec.data.dataset",
    "Interactions": "llmrec.data.interactions",
    "LanguageModel": "llmrec.lm.protocol",
    "LlmrecError": "llmrec.errors",
    "Sampling": "llmrec.lm.protocol",
    "evaluate": "llmrec.benchmark.protocol",
    "leave_one_out": "llmrec.data.splits",
    "load": "llmrec.data.spec",
    "load_backbone": "llmrec.lm.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
