"""Every component can be elaborated twice: nothing of the design lives outside `elaborate`."""

import pytest
from amaranth.hdl import Fragment

from systolith.hw.core.core import Core
from systolith.hw.core.scratchpad import Scratchpad
from systolith.hw.engine.cell import CellUnit
from systolith.hw.engine.load import LoadEngine
from systolith.hw.engine.matrix import MatrixEngine
from systolith.hw.engine.output import OutputEngine
from systolith.hw.engine.store import StoreEngine
from systolith.hw.engine.vector import VectorEngine
from systolith.hw.leaf.beat_memory import ParamMemory, WeightMemory
from systolith.hw.leaf.table import Table
from systolith.spec.arch import PRESETS


@pytest.mark.parametrize(
    "component",
    [
        CellUnit,
        Core,
        LoadEngine,
        MatrixEngine,
        OutputEngine,
        ParamMemory,
        Scratchpad,
        StoreEngine,
        Table,
        VectorEngine,
        WeightMemory,
    ],
)
def test_elaborates_twice(component):
    instance = component(PRESETS["tiny"])
    first, second = (Fragment.get(instance, None) for _ in range(2))
    assert len(first.subfragments) == len(second.subfragments)
