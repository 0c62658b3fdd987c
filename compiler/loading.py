from dataclasses import dataclass, field
from systolith.compiler.importer import load_model, is_quantised, name_nodes
from systolith.compiler.checks.shapes import typed_values
from systolith.compiler.model import Model, _type


@dataclass(frozen=True)
class Given:
    shapes: dict = field(default_factory=dict)
    constants: dict = field(default_factory=dict)
    batch: int | None = None


@dataclass(frozen=True, kw_only=True)
class Loaded:
    model: Model
    notes: tuple = ()
    quantised: bool = False


def load(source, given=None, samples=None):
    m = load_model(source)
    q = is_quantised(m)
    name_nodes(m)
    types = {n: _type(v.type) for n, v in typed_values(m).items()}
    return Loaded(model=Model.from_proto(m, types).without_dead_nodes(), quantised=q)
