"""Which core an architecture asks for."""

from systolith.hw.compact.core import CompactCore
from systolith.hw.core.core import Core
from systolith.spec.arch import ArchConfig

__all__ = ["core_for"]


def core_for(arch: ArchConfig) -> Core | CompactCore:
    """The core of an architecture; both kinds have the same ports."""
    return CompactCore(arch) if arch.compact else Core(arch)
