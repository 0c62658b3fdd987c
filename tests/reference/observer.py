"""A machine that notes every byte that an instruction reads or writes."""

import numpy as np

from systolith.reference.machine import Machine
from systolith.spec.isa import Region

__all__ = ["Observer"]


class _Noted(np.ndarray):
    """A memory that notes which of its rows are read and written; what is read is a plain array."""

    def __array_finalize__(self, base):
        self.read, self.written = [], []

    def __getitem__(self, index):
        self.read.append(self._rows(index))
        return np.asarray(self)[index]

    def __setitem__(self, index, value):
        self.written.append(self._rows(index))
        np.asarray(self)[index] = value

    def _rows(self, index):
        return np.arange(*index.indices(len(self))) if isinstance(index, slice) else np.ravel(index)


class Observer(Machine):
    """Executes as `Machine` does.

    Parameters
    ----------
    arch : ArchConfig
    program, data : uint8 arrays   the two regions of external memory
    """

    def __init__(self, arch, program, data):
        super().__init__(arch, program, data)
        for name in ("act", "weight", "param", "table", "acc"):
            setattr(self, name, getattr(self, name).view(_Noted))
        self.regions[Region.DATA] = data.view(_Noted)

    def observe(self, instr):
        """Execute one instruction; the bytes that it touched, once and in order, by (space, written)."""
        names = ("act", "weight", "param", "table", "acc")
        memories = {name: getattr(self, name) for name in names} | {"data": self.regions[Region.DATA]}
        for memory in memories.values():
            memory.read, memory.written = [], []
        self.execute(instr)
        touched = {}
        for space, memory in memories.items():
            for writes, indices in ((False, memory.read), (True, memory.written)):
                cells = np.unique(np.concatenate([np.empty(0, np.int64), *indices]))
                if cells.size:
                    touched[space, writes] = cells
        return touched

    def _windowed(self, address, inside, pad):
        # Bytes outside the window are fetched, and not looked at.
        address, inside = np.broadcast_arrays(address, inside)
        self.act.read.append(address[inside])
        return np.where(inside, np.asarray(self.act)[address], np.int8(pad))
