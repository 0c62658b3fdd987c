"""Rules for values that were read from JSON: what type, what range, and what Python object comes of them.
Standard library only.

A rule takes a value and the path that leads to it, ``inputs[0].scale``, and returns the object or raises
`SchemaError`. Nothing of the value's type is taken for granted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from systolith.spec.printable import excerpt, is_name

__all__ = [
    "Rule",
    "SchemaError",
    "boolean",
    "integer",
    "mapping",
    "number",
    "one_of",
    "optional",
    "sequence",
    "text",
    "variant",
]

Rule = Callable[[object, str], Any]


class SchemaError(ValueError):
    """A value that breaks its rule; the text begins with its path."""


def _refuse(path: str, wanted: str, value: object) -> SchemaError:
    return SchemaError(f"{path} must be {wanted}, not {excerpt(value)}")


def integer(low: int, high: int) -> Rule:
    """A whole number from `low` to `high`."""

    def rule(value: object, path: str) -> int:
        # bool is an int to Python, and no number to anyone else.
        if type(value) is not int or not low <= value <= high:
            raise _refuse(path, f"a whole number from {low} to {high}", value)
        return value

    return rule


def number(low: float, high: float) -> Rule:
    """A finite number from `low` to `high`, as float."""

    def rule(value: object, path: str) -> float:
        # Neither NaN nor infinity lies between two numbers.
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise _refuse(path, f"a number from {low:g} to {high:g}", value)
        return float(value)

    return rule


def boolean(value: object, path: str) -> bool:
    """True or false."""
    if type(value) is not bool:
        raise _refuse(path, "true or false", value)
    return value


def text(most: int, *, empty: bool = False) -> Rule:
    """A name, see `is_name`; with `empty`, none at all is right too."""

    def rule(value: object, path: str) -> str:
        if type(value) is not str or not (is_name(value, most) or (empty and value == "")):
            raise _refuse(path, f"a text of at most {most} characters without control characters", value)
        return value

    return rule


def one_of(*values: str) -> Rule:
    """One of these texts."""

    def rule(value: object, path: str) -> str:
        if type(value) is not str or value not in values:
            raise _refuse(path, f"one of {', '.join(values)}", value)
        return value

    return rule


def optional(rule: Rule) -> Rule:
    """None, or what the rule says."""
    return lambda value, path: None if value is None else rule(value, path)


def sequence(rule: Rule, most: int) -> Rule:
    """A list of at most `most` values under one rule, as a tuple."""

    def checked(value: object, path: str) -> tuple[Any, ...]:
        if type(value) is not list or len(value) > most:
            raise _refuse(path, f"a list of at most {most} entries", value)
        return tuple(rule(item, f"{path}[{index}]") for index, item in enumerate(value))

    return checked


def mapping(make: Callable[..., Any], fields: Mapping[str, Rule]) -> Rule:
    """An object with exactly these members, each under its rule, as ``make(**members)``."""

    def checked(value: object, path: str) -> Any:
        if type(value) is not dict:
            raise _refuse(path or "the header", "an object", value)
        prefix = f"{path}." if path else ""
        for name in fields:
            if name not in value:
                raise SchemaError(f"{prefix}{name} is missing")
        for name in value:
            if name not in fields:
                raise SchemaError(f"{prefix}{excerpt(name)} is unknown")
        return make(**{name: rule(value[name], prefix + name) for name, rule in fields.items()})

    return checked


def variant(member: str, rules: Mapping[str, Rule]) -> Rule:
    """An object whose `member` says which rule holds for the others."""
    kind = one_of(*rules)

    def checked(value: object, path: str) -> Any:
        if type(value) is not dict:
            raise _refuse(path, "an object", value)
        if member not in value:
            raise SchemaError(f"{path}.{member} is missing")
        chosen = kind(value[member], f"{path}.{member}")
        return rules[chosen]({name: item for name, item in value.items() if name != member}, path)

    return checked
