"""Plans for tests: made by hand, changed, and looked at."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from systolith.reference.plan import CorePart, Plan
from systolith.spec.image import Image
from systolith.spec.plan import CoreStep, HostStep

__all__ = ["sides", "with_core"]


def with_core(image: Image, **changes: Any) -> Image:
    """The image with members of its first core step changed."""
    first = image.cores[0]
    return replace(
        image, steps=tuple(replace(step, **changes) if step is first else step for step in image.steps)
    )


def sides(plan: Plan | Image) -> dict[str, str]:
    """For each node on the host, of a plan with one core step, whether it runs 'before' or 'after' that."""
    at = next(n for n, step in enumerate(plan.steps) if isinstance(step, CorePart | CoreStep))
    return {
        node.name: "before" if number < at else "after"
        for number, step in enumerate(plan.steps)
        if isinstance(step, HostStep)
        for node in step.nodes
    }
