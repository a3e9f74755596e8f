"""All tools by name, and the ones a role may use."""

from __future__ import annotations

from collections.abc import Sequence

from llmrec.errors import ConfigError
from llmrec.tools.base import Tool
from llmrec.tools.details import Details
from llmrec.tools.filter import Filter
from llmrec.tools.popular import Popular
from llmrec.tools.rank import Rank
from llmrec.tools.recommend import Recommend
from llmrec.tools.search import Search
from llmrec.tools.similar import Similar

TOOLS: dict[str, Tool] = {
    tool.name: tool for tool in (Search(), Similar(), Recommend(), Popular(), Filter(), Rank(), Details())
}


def allowed(names: Sequence[str]) -> dict[str, Tool]:
    """The named tools.

    Raises:
        ConfigError: there is no such tool.
    """
    unknown = [name for name in names if name not in TOOLS]
    if unknown:
        raise ConfigError(f"no tool {unknown[0]!r}; the tools are {', '.join(TOOLS)}")
    return {name: TOOLS[name] for name in names}
