"""Which core a configuration has."""

import pytest
from amaranth.hdl import Fragment

from systolith.hw.compact.core import CompactCore
from systolith.hw.core.core import Core
from systolith.hw.cores import core_for
from systolith.spec.arch import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_a_configuration_decides_which_core_is_made(name):
    core = core_for(PRESETS[name])
    assert type(core) is (CompactCore if PRESETS[name].compact else Core)
    # Used, so that Amaranth does not complain of a design that nobody wanted.
    assert Fragment.get(core, None) is not None
