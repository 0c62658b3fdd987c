"""From a quantised graph to instructions."""

from systolith.compiler.lower.graph import lower_graph

__all__ = ["lower_graph"]
