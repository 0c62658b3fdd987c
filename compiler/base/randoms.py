"""Operators that draw numbers."""

__all__ = ["RANDOM"]

#: Their results differ from run to run, whatever they read.
RANDOM = frozenset(
    (
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    )
)
