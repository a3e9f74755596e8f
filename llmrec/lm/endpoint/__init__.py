"""The endpoint engine: any server that speaks the OpenAI API (llama.cpp, vLLM, OpenAI and the like)."""

from llmrec.lm.endpoint.budget import Usage
from llmrec.lm.endpoint.engine import EndpointLM
from llmrec.lm.endpoint.settings import BudgetSettings, EndpointSettings

__all__ = ["BudgetSettings", "EndpointLM", "EndpointSettings", "Usage"]
