"""The error of the front door; those of the parts derive from `SystolithError` as well."""

from __future__ import annotations

from systolith.spec.errors import SystolithError

__all__ = ["ApiError"]


class ApiError(SystolithError, ValueError):
    """A refused input; the text is one sentence that names the culprit and the remedy."""
