"""The pictures of the documentation: `python docs/img/draw.py` writes core.svg and compile.svg beside this
file.

Pure Python, no library. A test checks that the files are what this script gives.
"""

from pathlib import Path
from xml.sax.saxutils import escape

__all__ = ["PICTURES", "compile_picture", "core_picture"]

#: (fill, border) by what a box stands for.
CONTROL = ("#e8eaf0", "#5b6478")
ENGINE = ("#dce9fb", "#2f66b5")
MEMORY = ("#e4f3e0", "#3f8432")
OUTSIDE = ("#fdf1d6", "#b07d12")
DATA = ("#ffffff", "#5b6478")
#: Colours of arrows.
INSTRUCTIONS, CONSTANTS, ACTIVATIONS, SUMS = "#5b6478", "#b07d12", "#3f8432", "#b0382f"
INK, FAINT = "#1d2430", "#4a5364"
FONT = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
MONO = "Menlo, Consolas, 'DejaVu Sans Mono', monospace"


class Drawing:
    """An SVG in the making: frames below arrows, these below boxes, texts above all."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self._frames: list[str] = []
        self._boxes: list[str] = []
        self._lines: list[str] = []
        self._texts: list[str] = []

    def box(
        self,
        x: int,
        y: int,
        width: int,
        height: int,
        kind: tuple[str, str],
        *lines: str,
        bold: bool = True,
        round_: int = 6,
    ) -> None:
        """A box with its text in the middle, the first line large."""
        fill, border = kind
        self._boxes.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="{round_}" fill="{fill}" '
            f'stroke="{border}" stroke-width="1.6"/>'
        )
        pitch = 18
        top = y + height / 2 - pitch * (len(lines) - 1) / 2 + 5
        for i, line in enumerate(lines):
            self.text(
                x + width / 2,
                top + i * pitch,
                line,
                anchor="middle",
                bold=bold and i == 0,
                size=15 if i == 0 else 13,
            )

    def outline(self, x: int, y: int, width: int, height: int, label: str) -> None:
        """A dashed frame round a group, with its name at the top left."""
        self._frames.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="10" fill="#f7f8fa" '
            'stroke="#8a93a5" stroke-width="1.4" stroke-dasharray="6 4"/>'
        )
        self.text(x + 12, y + 21, label, bold=True, size=15, colour=FAINT)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        anchor: str = "start",
        bold: bool = False,
        size: int = 13,
        colour: str = INK,
    ) -> None:
        """One line; between backquotes it is code."""
        family = MONO if text.startswith("`") else FONT
        text = text.strip("`")
        weight = ' font-weight="bold"' if bold else ""
        self._texts.append(
            f'<text x="{x:g}" y="{y:g}" font-family="{escape(family)}" '
            f'font-size="{size if family is FONT else size - 1}" fill="{colour}" '
            f'text-anchor="{anchor}"{weight}>{escape(text)}</text>'
        )

    def arrow(
        self, *points: tuple[float, float], colour: str = INSTRUCTIONS, both: bool = False, head: bool = True
    ) -> None:
        """A line through these points with a head at its end; a white rim keeps crossings readable."""
        path = "M" + " L".join(f"{x:g},{y:g}" for x, y in points)
        name = colour.strip("#")
        ends = f' marker-end="url(#head-{name})"' if head else ""
        if both:
            ends += f' marker-start="url(#head-{name})"'
        self._lines.append(f'<path d="{path}" fill="none" stroke="#f7f8fa" stroke-width="6"/>')
        self._lines.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"{ends}/>')

    def dot(self, x: float, y: float, colour: str) -> None:
        """Where a line branches."""
        self._lines.append(f'<circle cx="{x:g}" cy="{y:g}" r="3.5" fill="{colour}"/>')

    def svg(self) -> str:
        """The file."""
        heads = "".join(
            f'<marker id="head-{colour.strip("#")}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="9" '
            'markerHeight="9" markerUnits="userSpaceOnUse" orient="auto-start-reverse"><path d="M0,0 L10,5 '
            f'L0,10 z" fill="{colour}"/></marker>'
            for colour in (INSTRUCTIONS, CONSTANTS, ACTIVATIONS, SUMS)
        )
        body = "\n".join([*self._frames, *self._lines, *self._boxes, *self._texts])
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}" height="{self.height}" '
            f'role="img">\n<title>{escape(self.title)}</title>\n<defs>{heads}</defs>\n'
            f'<rect width="{self.width}" height="{self.height}" rx="12" fill="#ffffff"/>\n{body}\n</svg>\n'
        )


def core_picture() -> str:
    """The core: control above, engines in the order in which data passes them, memories below."""
    d = Drawing(1276, 850, "The core: five engines, their memories, and the control that feeds them")
    d.outline(20, 92, 1236, 660, "core")

    # Control.
    d.box(560, 16, 240, 44, OUTSIDE, "host")
    d.arrow((680, 62), (680, 118), both=True)
    d.text(692, 84, "AXI4-Lite", colour=FAINT)
    d.box(140, 120, 130, 60, CONTROL, "fetch", "in order")
    d.box(330, 120, 150, 60, CONTROL, "decode", "refuses illegal words")
    d.box(560, 120, 240, 60, CONTROL, "control and status", "start, errors, counters")
    d.box(
        140,
        222,
        1090,
        46,
        CONTROL,
        "one queue per engine; semaphores: wait and signal order the engines",
        bold=False,
    )
    d.arrow((270, 150), (329, 150))
    d.arrow((405, 180), (405, 221))
    d.arrow((680, 182), (680, 220), both=True)

    # Engines, and the accumulators between two of them.
    for x, width, lines in (
        (140, 130, ("LOAD", "DMA in")),
        (335, 190, ("MATRIX", "R x C array, int8", "weight-stationary")),
        (735, 175, ("OUTPUT", "bias, scale, clamp", "or table")),
        (980, 130, ("VECTOR", "add, multiply", "or maximum")),
        (1140, 90, ("STORE", "DMA out")),
    ):
        d.box(x, 318, width, 84, ENGINE, *lines)
        d.arrow((x + width / 2, 268), (x + width / 2, 317))
    d.box(565, 318, 130, 84, MEMORY, "accumulators", "C x int32 each")
    d.arrow((525, 360), (564, 360), colour=SUMS)
    d.arrow((695, 360), (734, 360), colour=SUMS)
    d.arrow((910, 360), (979, 360), colour=ACTIVATIONS)
    d.text(943, 350, "chain", anchor="middle", colour=FAINT)

    # Constants: LOAD's trunk, and what hangs on it.
    trunk = 556
    d.arrow((225, 402), (225, trunk), (935, trunk), (935, 517), colour=CONSTANTS)
    for x, width, name, centre in (
        (335, 140, "weight SRAM", 397),
        (705, 125, "parameters", 767),
        (875, 120, "tables", 935),
    ):
        d.box(x, 470, width, 46, MEMORY, name)
        if centre != 935:
            d.arrow((centre, trunk), (centre, 517), colour=CONSTANTS)
            d.dot(centre, trunk, CONSTANTS)
    for x in (397, 767, 893, 988):
        d.arrow((x, 472), (x, 403), colour=CONSTANTS)

    # Activations.
    d.box(
        140,
        602,
        1090,
        54,
        MEMORY,
        "activation SRAM",
        "blocks with one read and one write port each, in byte-wide banks, so that a request may begin at "
        "any byte",
    )
    for x in (180, 852, 1080):
        d.arrow((x, 400), (x, 601), colour=ACTIVATIONS)
    for x in (495, 1030, 1185):
        d.arrow((x, 604), (x, 403), colour=ACTIVATIONS)
    d.text(1022, 545, "read", anchor="end", colour=FAINT)
    d.text(1088, 545, "write", colour=FAINT)

    # The bus.
    d.box(
        40,
        694,
        1190,
        40,
        CONTROL,
        "AXI4 manager, 32 to 128 bit, bursts of up to 16 beats; fetch and LOAD share the read side",
        bold=False,
    )
    d.arrow((80, 696), (80, 360), (139, 360), colour=CONSTANTS)
    d.arrow((80, 360), (80, 150), (139, 150))
    d.dot(80, 360, CONSTANTS)
    d.text(72, 540, "read", anchor="end", colour=FAINT)
    d.arrow((1228, 360), (1243, 360), (1243, 714), (1231, 714), colour=ACTIVATIONS)
    d.arrow((620, 736), (620, 786), both=True)
    d.text(632, 776, "AXI4", colour=FAINT)
    d.box(
        40,
        788,
        1190,
        44,
        OUTSIDE,
        "external memory: PROGRAM (instructions, constants), DATA (inputs, outputs, tensors too large for "
        "the chip)",
        bold=False,
    )

    # Legend.
    for i, (colour, text) in enumerate(
        (
            (INSTRUCTIONS, "instructions and control"),
            (CONSTANTS, "weights, parameters, tables"),
            (ACTIVATIONS, "activations (int8)"),
            (SUMS, "sums (int32)"),
        )
    ):
        y = 122 + 20 * i
        d.arrow((910, y), (950, y), colour=colour)
        d.text(962, y + 5, text)
    return d.svg()


def compile_picture() -> str:
    """From a model to an image, and the three levels that are compared."""
    d = Drawing(1180, 916, "From an ONNX model to an image, and the three levels that are compared")
    left, centre, right, wide = 24, 330, 806, 340
    middle = centre + wide / 2

    # Artefacts and steps, from top to bottom.
    d.box(centre, 20, wide, 44, OUTSIDE, "ONNX model, float or quantised")
    d.box(
        centre,
        100,
        wide,
        62,
        CONTROL,
        "load: types, shapes, plain operators",
        "`compiler/loading.py passes/`",
    )
    d.box(centre, 198, wide, 62, CONTROL, "observe ranges, if float", "`compiler/quantise.py`")
    d.box(
        centre,
        296,
        wide,
        80,
        CONTROL,
        "walk, and divide into steps",
        "`compiler/frontend.py ops/`",
        "`compiler/regions.py worth.py partition.py`",
    )
    d.box(centre, 412, wide, 44, DATA, "quantised graph of each step, int8")
    d.box(
        centre,
        492,
        wide,
        80,
        CONTROL,
        "lower: place tensors, cut, emit",
        "`compiler/lower/ base/layout.py`",
        "`compiler/base/arena.py base/constants.py`",
    )
    d.box(centre, 608, wide, 62, CONTROL, "order: tokens between engines", "`compiler/tokens.py`")
    d.box(centre, 706, wide, 62, CONTROL, "link, and estimate cycles", "`compiler/driver.py cycles.py`")
    d.box(centre, 804, wide, 62, DATA, "image, .sysl", "program, constants, plan, host steps")
    for top, bottom in (
        (62, 100),
        (160, 198),
        (258, 296),
        (374, 412),
        (454, 492),
        (570, 608),
        (668, 706),
        (766, 804),
    ):
        d.arrow((middle, top), (middle, bottom - 1))
    for y, name in (
        (398, "graph.txt core.onnx"),
        (594, "lowered.txt placement.txt constants.txt"),
        (790, "program.txt"),
    ):
        d.text(middle + 14, y, f"`{name}`", colour=FAINT)
    d.text(left, 386, "`host.onnx`", colour=FAINT)
    d.text(right - 24, 40, "Grey names are the files that", colour=FAINT)
    d.text(right - 24, 60, "`systolith compile --dump DIR`", colour=FAINT)
    d.text(right - 24, 80, "writes, one or more per level.", colour=FAINT)

    # Left: what else goes in, and what stays on the host.
    d.box(left, 305, 210, 62, OUTSIDE, "steps of the host", "run in ONNX Runtime")
    d.arrow((centre + 2, 336), (left + 211, 336))
    d.box(left, 207, 210, 44, OUTSIDE, "calibration samples")
    d.arrow((left + 208, 229), (centre - 1, 229))
    d.box(left, 492, 210, 80, OUTSIDE, "architecture", "preset or TOML", "`spec/arch.py`")
    d.arrow((left + 208, 532), (centre - 1, 532))

    # Right: what runs.
    d.outline(right - 24, 376, 378, 452, "systolith verify: equal, bit for bit")
    d.box(right, 412, 330, 76, ENGINE, "reference", "NumPy, op by op", "`reference/`")
    d.arrow((centre + wide - 2, 434), (right - 1, 434))
    d.box(
        right,
        619,
        330,
        76,
        ENGINE,
        "machine",
        "the instructions, on modelled memories",
        "`reference/machine.py`",
    )
    d.box(right, 729, 330, 76, ENGINE, "RTL in Verilator", "generated with Amaranth", "`hw/ sim/`")
    branch = 735
    d.arrow((centre + wide - 2, 835), (branch, 835), (branch, 657), (right - 1, 657))
    d.arrow((branch, 767), (right - 1, 767))
    d.dot(branch, 767, INSTRUCTIONS)
    d.arrow((left + 105, 570), (left + 105, 890), (971, 890), (971, 806))
    d.text(left + 117, 906, "the core's hardware follows from the same parameters", colour=FAINT)
    return d.svg()


PICTURES = {"core.svg": core_picture, "compile.svg": compile_picture}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        Path(__file__).with_name(name).write_text(draw(), encoding="utf-8")
