"""What the core can run of ONNX, as the rules say it: the page of supported operators."""

from __future__ import annotations

from systolith.compiler.ops import RULES
from systolith.compiler.ops.registry import Rule

__all__ = ["supported_operators", "supported_ops_markdown"]


def supported_operators() -> list:
    """What the supported-operators page states, one row per operator."""
    shared = [
        _Row(name, "", (doc,))
        for name, doc in (
            ("QuantizeLinear", "the scale must be one positive number, the type int8 or uint8"),
            (
                "DequantizeLinear",
                "an activation's scale must be one number; weights may have one per output channel",
            ),
            (
                "QLinearConv, QLinearMatMul",
                "as the float operator between DequantizeLinear and QuantizeLinear",
            ),
        )
    ]
    shared.append(
        _Row(
            "QLinearAdd, QLinearMul, QLinearConcat, QLinearAveragePool, QLinearGlobalAveragePool, "
            "QLinearSigmoid, QLinearLeakyRelu, QGemm",
            "com.microsoft",
            ("as the float operator; channels_last must be 0",),
        )
    )
    return [*(_row(RULES[name]) for name in sorted(RULES)), *shared]


def supported_ops_markdown() -> str:
    """The same as a Markdown table."""
    lines = ["| operator | domain | constraints |", "|---|---|---|"]
    lines += [
        f"| {row.name} | {row.domain or 'ai.onnx'} | {'; '.join(row.constraints) or '-'} |"
        for row in supported_operators()
    ]
    return "\n".join(lines) + "\n"


class _Row:
    def __init__(self, name: str, domain: str, constraints: tuple[str, ...]) -> None:
        self.name, self.domain, self.constraints = name, domain, constraints


def _row(rule: Rule) -> _Row:
    texts = [" ".join(constraint.__doc__.split()).rstrip(".") for constraint in rule.constraints]
    if rule.attributes:
        texts.append("attributes: " + ", ".join(sorted(rule.attributes)))
    return _Row(rule.name, rule.domain, tuple(texts))
