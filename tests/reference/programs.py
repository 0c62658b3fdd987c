"""Random programs that a core executes without an error: every instruction, operands at their extremes."""

import random

from systolith.spec.isa import Cell, Destination, Mode, OperandA, Region, Space, isa_for

__all__ = ["DATA_BYTES", "ProgramMaker"]

#: Bytes of each region of external memory.
DATA_BYTES = 1 << 10


class ProgramMaker:
    """Makes instructions in groups, each of which takes all that it sends on.

    Parameters
    ----------
    arch : ArchConfig
    seed : int
    """

    def __init__(self, arch, seed):
        self.arch, self.rng, self.make = arch, random.Random(seed), isa_for(arch).make
        self.sizes = {
            Space.ACT: arch.act_bytes,
            Space.WEIGHT: arch.weight_bytes,
            Space.PARAM: arch.param_bytes,
            Space.TABLE: arch.table_bytes,
        }

    def program(self, groups):
        """The instructions of so many groups."""
        kinds = [self.load, self.store, self.product]
        if not self.arch.compact:
            kinds += [self.chained, self.binary, self.pool, self.cell]
        return [instr for _ in range(groups) for instr in self.rng.choice(kinds)()]

    def pick(self, low, high):
        return self.rng.randint(low, high)

    def address(self):
        """Anywhere, or near either end."""
        size = self.arch.act_bytes
        return self.rng.choice([self.pick(0, size - 1), self.pick(0, 40), size - 1 - self.pick(0, 40)])

    def steps(self, *names):
        """Steps between rows and pixels: none, small, or backwards."""
        back = self.arch.act_bytes - self.pick(1, 30)
        return {name: self.rng.choice([0, self.pick(1, 30), self.pick(30, 200), back]) for name in names}

    def table(self):
        if self.arch.compact:
            return {}
        return {"table": self.pick(0, 1), "slot": self.pick(0, self.arch.table_slots - 1)}

    # -- transfers -------------------------------------------------------------------------------------------
    def transfer(self, mnemonic, space, unit):
        planes, rows, length = self.pick(1, 3), self.pick(1, 4), unit * self.pick(1, 4)
        ext_plane, ext_row, plane, row = (unit * self.pick(0, 4) for _ in range(4))
        offset = self.pick(0, (DATA_BYTES - length - (planes - 1) * ext_plane - (rows - 1) * ext_row) // unit)
        base = self.pick(0, (self.sizes[space] - length - (planes - 1) * plane - (rows - 1) * row) // unit)
        operands = {"space": space} if mnemonic == "LOAD" else {}
        region = Region(self.pick(0, 1)) if mnemonic == "LOAD" else Region.DATA
        return [
            self.make(
                mnemonic,
                region=region,
                planes=planes,
                rows=rows,
                bytes=length,
                ext_plane=ext_plane,
                ext_row=ext_row,
                plane=plane,
                row=row,
                offset=unit * offset,
                base=unit * base,
                **operands,
            )
        ]

    def load(self):
        space = self.rng.choice([space for space in Space if self.sizes[space]])
        return self.transfer("LOAD", space, 1 if space is Space.ACT else self.arch.bus_bytes)

    def store(self):
        return self.transfer("STORE", Space.ACT, 1)

    # -- array and output stage ------------------------------------------------------------------------------
    def window(self):
        """A window of an image, most often with a pitch, partly or wholly outside."""
        pitch, ky_y, oy_y = self.pick(1, 60), self.pick(0, 2), self.pick(0, 2)
        free = self.steps("ky_addr", "oy_addr", "kx_x", "ox_x")
        if self.pick(0, 3):
            free |= {
                "ky_addr": ky_y * pitch,
                "oy_addr": oy_y * pitch,
                "kx_x": self.pick(0, 9),
                "ox_x": self.pick(0, 9),
            }
        return dict(
            base=self.address(),
            y0=self.pick(-2, 2),
            x0=self.pick(-9, 6),
            height=self.pick(0, 9),
            row_bytes=self.rng.choice([self.pick(0, pitch), pitch]),
            ky=self.pick(1, 3),
            kx=self.pick(1, 3),
            ky_y=ky_y,
            oy_y=oy_y,
            **free,
        )

    def matmul(self, acc, entries, **operands):
        """A MATMUL that writes so many entries, and the release of them."""
        arch = self.arch
        oy = self.rng.choice([rows for rows in range(1, 5) if entries % rows == 0])
        taps, stride, mode = 1, 1, Mode.DENSE
        if not arch.compact and self.pick(0, 2) == 0:
            taps, stride = self.pick(1, arch.rows), self.pick(1, 3)
            mode = Mode.DEPTHWISE if arch.depthwise else Mode.DENSE
        ox = taps + (entries // oy - 1) * stride + self.pick(0, stride - 1)
        window = self.window()
        kt = 1 if mode is Mode.DEPTHWISE else self.pick(1, 3)
        tile = self.pick(0, arch.weight_tiles - window["ky"] * window["kx"] * kt)
        return self.make(
            "MATMUL",
            mode=mode,
            acc=acc,
            oy=oy,
            ox=ox,
            taps=taps,
            stride=stride,
            kt=kt,
            tile=tile,
            **window,
            **operands,
        )

    def products(self, entries):
        """MATMULs that add up to released entries; the first of them."""
        acc = self.pick(0, self.arch.acc_depth - entries)
        first = [self.matmul(acc, entries, accumulate=self.pick(0, 1))] if self.pick(0, 1) else []
        return acc, [*first, self.matmul(acc, entries, accumulate=self.pick(0, 1), final=1)]

    def output(self, acc, ny, nx, channels, **operands):
        return self.make(
            "OUTPUT",
            acc=acc,
            ny=ny,
            nx=nx,
            channels=channels,
            param=self.pick(0, self.arch.param_rows - 1),
            dst=self.address(),
            **self.steps("dst_row", "dst_px"),
            **self.table(),
            **operands,
        )

    def product(self):
        ny, nx = self.pick(1, 2), self.pick(1, 4)
        acc, products = self.products(ny * nx)
        idle = [self.make("MATMUL", taps=2, ox=1)] if not self.arch.compact and not self.pick(0, 5) else []
        return [*idle, *products, self.output(acc, ny, nx, self.pick(1, self.arch.cols))]

    # -- vector unit -----------------------------------------------------------------------------------------
    def binary(self, **operands):
        shape = {"ny": self.pick(1, 3), "nx": self.pick(1, 4), "bytes": self.pick(1, 3 * self.arch.lanes)}
        steps = self.steps("a_row", "a_px", "b_row", "b_px", "dst_row", "dst_px")
        return [
            self.make(
                self.rng.choice(["ADD", "MUL"]),
                **shape | operands,
                a=self.address(),
                b=self.address(),
                dst=self.address(),
                **steps,
                **self.table(),
            )
        ]

    def chained(self):
        ny, nx, channels = self.pick(1, 2), self.pick(1, 4), self.pick(1, self.arch.cols)
        acc, products = self.products(ny * nx)
        output = self.output(acc, ny, nx, channels, dest=Destination.VECTOR)
        return [*products, output, *self.binary(ny=ny, nx=nx, bytes=channels, a_source=OperandA.OUTPUT)]

    def pool(self):
        return [
            self.make(
                "POOL",
                ny=self.pick(1, 3),
                nx=self.pick(1, 4),
                bytes=self.pick(1, 3 * self.arch.lanes),
                dst=self.address(),
                **self.window(),
                **self.steps("dst_row", "dst_px"),
                **self.table(),
            )
        ]

    def cell(self):
        kind, units = self.rng.choice(list(Cell)), self.pick(1, self.arch.cols)
        gates = []
        for _ in range(kind.gates):
            acc, products = self.products(1)
            gates += [*products, self.output(acc, 1, 1, units, dest=Destination.CELL)]
        # The ranges of one CELL do not overlap.
        first, gap = self.address(), self.pick(units, 3 * units)
        places = [(first + i * gap) % self.arch.act_bytes for i in self.rng.sample(range(4), 4)]
        operands = dict(zip(("state", "state_high", "dst", "dst_low"), places, strict=True))
        return [
            *gates,
            self.make(
                "CELL", kind=kind, units=units, wide=self.pick(0, 1), alpha=self.pick(0, 1 << 15), **operands
            ),
        ]
