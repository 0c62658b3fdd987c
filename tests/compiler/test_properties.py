"""Any graph on any core: the machine gives the reference's bits, the order is proved, and compiling twice
gives equal bytes."""

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from systolith.compiler.base.errors import AllocationError
from systolith.compiler.driver import compile_graph
from systolith.host.driver import Driver
from systolith.reference.hazards import check_order
from systolith.reference.machine_device import MachineDevice
from tests.graphs import ARCHS, archs, assert_same_bits, graphs


def check(graph, arch):
    try:
        image = compile_graph(graph, arch)
    except AllocationError:
        # Drawn cores may be too small for a layer. Hypothesis complains if that happens often.
        reject()
    for stream in ("load", "run"):
        check_order([instr for _, instr in image.stream(stream)], arch)
    assert_same_bits(Driver(MachineDevice(arch, memory_bytes=1 << 22), image), graph, seed=0)
    assert compile_graph(graph, arch).to_bytes() == image.to_bytes()


def examples(count):
    """The same examples in every run. Graphs are large data, and slow to draw by hypothesis's standards."""
    unhurried = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    return settings(
        derandomize=True,
        deadline=None,
        max_examples=count,
        suppress_health_check=unhurried,
        database=None,
        print_blob=True,
    )


@pytest.mark.parametrize("arch", ARCHS)
@examples(60)
@given(graph=graphs())
def test_graphs_on_named_cores(arch, graph):
    check(graph, ARCHS[arch])


@examples(250)
@given(graph=graphs(), arch=archs())
def test_graphs_on_drawn_cores(graph, arch):
    check(graph, arch)


@pytest.mark.slow
@examples(2000)
@given(graph=graphs(steps=8, largest=14), arch=st.one_of(archs(), st.sampled_from(list(ARCHS.values()))))
def test_larger_graphs_on_any_core(graph, arch):
    check(graph, arch)
