"""Where programs come from, by the user's choice: `--tools`, else SYSTOLITH_TOOLS, else `auto`."""

from __future__ import annotations

import os

from systolith.tooling.process import ToolError

__all__ = ["POLICIES", "choose", "policy"]

#: A native program that is new enough and else PyPI's; native ones only; PyPI's only.
POLICIES = ("auto", "native", "pypi")
#: The choice of the command line, in place of the environment's.
_chosen: str | None = None


def choose(name: str | None) -> None:
    """Take tools by a policy from now on; None: by SYSTOLITH_TOOLS.

    Raises
    ------
    ToolError   If there is no such policy.
    """
    global _chosen
    _chosen = None if name is None else _checked(name, "--tools")


def policy() -> str:
    """The policy by which tools are taken.

    Raises
    ------
    ToolError   If SYSTOLITH_TOOLS names none.
    """
    return _chosen or _checked(os.environ.get("SYSTOLITH_TOOLS") or POLICIES[0], "SYSTOLITH_TOOLS")


def _checked(name: str, where: str) -> str:
    if name not in POLICIES:
        raise ToolError(f"{where} is {name!r}: choose from {', '.join(POLICIES)}")
    return name
