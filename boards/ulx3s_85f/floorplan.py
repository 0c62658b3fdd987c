"""Where the ULX3S's multipliers and most of its block RAMs lie on the LFE5U-85F.

The placers of nextpnr scatter both, since nearly all are used: what is left over at the end has to go where
there is room. So does what a DSP block has no clock enable for; it takes four. Here the four multipliers of a
block are two rows of two columns of the array, which share one enable a row. The blocks of two columns lie
side by side, so that a sum goes from block to block, and at the end of that row are the block RAMs of the two
columns' accumulators. Nearly all of it has registers before and behind, so a placer finds its way between.
"""

from systolith.spec.arch import PRESETS, ArchConfig
from systolith.spec.numerics import ACC

__all__ = ["floorplan"]

#: The 13 DSP blocks in each of three rows, and as many groups of four block RAMs in each of four rows, begin
#: in these columns of tiles.
_BLOCKS = (4, 13, 22, 31, 40, 49, 58, 69, 78, 87, 96, 105, 114)
#: Where the multipliers of a block lie in it, which is in their names too; likewise the block RAMs of a
#: group.
_MULTIPLIERS = (0, 1, 4, 5)
_RAMS = (0, 2, 4, 6)
#: Rows and columns of the array in a block.
_ROWS = _COLUMNS = 2
#: Bits of a block RAM, and of its widest word, which has nine to eight.
_RAM_BITS, _WORD_BITS = 1 << 14, 36

#: For each two columns the row of DSP blocks, and the four blocks in the order of the array's rows. Each
#: half of the columns has its own copies of vectors and weights, and lies together.
_PAIRS = (
    (10, range(0, 4)),
    (10, range(4, 8)),
    (10, range(11, 7, -1)),
    (34, range(12, 8, -1)),
    (34, range(0, 4)),
    (58, range(0, 4)),
    (58, range(4, 8)),
    (58, range(11, 7, -1)),
)
#: The row of block RAMs beside a row of DSP blocks.
_BESIDE = {10: 22, 34: 46, 58: 70}
#: The block RAMs of the weights of each two columns.
_WEIGHTS = (
    (22, (0, 1)),
    (22, (4, 5)),
    (22, (11, 10)),
    (22, (12, 9)),
    (46, (0, 1)),
    (82, (0, 1)),
    (82, (3, 4)),
    (70, (11, 10)),
)
#: In the middle are the multipliers of the other engines, and their tables; round them the activations, and
#: to the right the parameters.
_MIDDLE = (34, range(4, 9))
_TABLES = (46, range(5, 8))
_ACTIVATIONS = ((46, (2, 4, 8)), (70, (1, 2, 4, 5, 6)), (82, range(5, 13)))
_PARAMS = ((46, (11, 12)), (22, (6,)), (70, (12,)))


def floorplan(arch: ArchConfig) -> dict[str, str]:
    """Cell of the synthesised netlist -> site of the part; nothing for a core that is not this board's
    own."""
    if arch != PRESETS["ulx3s_85f"]:
        return {}
    plan = _multipliers(arch)
    for names, sites in (
        *zip(_weights(arch), (_rams(*at) for at in _WEIGHTS), strict=True),
        (_tables(arch), _rams(*_TABLES)),
        (_activations(arch), [site for at in _ACTIVATIONS for site in _rams(*at)]),
        (_params(arch), [site for at in _PARAMS for site in _rams(*at)]),
    ):
        plan |= zip(names, sites, strict=True)
    for names, (row, blocks) in zip(_accumulators(arch), _PAIRS, strict=True):
        # From the block on where the sums arrive.
        plan |= zip(names, _rams(_BESIDE[row], blocks[::-1]), strict=False)
    return {f"system.core.{name}": site for name, site in plan.items()}


def _multipliers(arch: ArchConfig) -> dict[str, str]:
    lanes = range(arch.lanes)
    middle = [
        f"vector.{name}{lane}"
        for pair in (lanes[:2], lanes[2:])
        for name in ("product", "m1_")
        for lane in pair
    ]
    middle += [f"vector.cell.lane{lane}.product" for lane in lanes] + [
        f"output.{name}_product{lane}" for lane in lanes for name in ("low", "high")
    ]
    row, blocks = _MIDDLE
    plan = dict(
        zip(middle, (_multiplier(block, row, place) for block in blocks for place in range(4)), strict=True)
    )
    for pair, (row, blocks) in enumerate(_PAIRS):
        for r in range(arch.rows):
            for c in range(_COLUMNS):
                plan[f"matrix.product{r}_{_COLUMNS * pair + c}"] = _multiplier(
                    blocks[r // _ROWS], row, _COLUMNS * (r % _ROWS) + c
                )
    return {f"{name}_dsp": site for name, site in plan.items()}


def _multiplier(block: int, row: int, place: int) -> str:
    offset = _MULTIPLIERS[place]
    return f"X{_BLOCKS[block] + offset}/Y{row}/MULT18_{offset}"


def _rams(row: int, blocks) -> list[str]:
    return [
        f"X{_BLOCKS[block] + offset}/Y{row}/EBR{place}"
        for block in blocks
        for place, offset in enumerate(_RAMS)
    ]


def _accumulators(arch: ArchConfig) -> list[list[str]]:
    """For each two columns the block RAMs that hold most of their accumulators' bits, as yosys names them."""
    bits, of_pair = arch.cols // 2 * ACC.width, _COLUMNS * ACC.width
    rams: list[list[str]] = [[] for _ in _PAIRS]
    for half in range(2):
        for word, begin in enumerate(range(0, bits, _WORD_BITS)):
            pair = half * len(_PAIRS) // 2 + min(begin + _WORD_BITS // 2, bits - 1) // of_pair
            rams[pair] += [f"matrix.acc{bank}_{half}.ram_0.memory.0.{word}" for bank in range(2)]
    return rams


def _weights(arch: ArchConfig) -> list[list[str]]:
    """For each two columns the block RAMs of their weights, which are as narrow as they are deep."""
    of_pair = 8 * _COLUMNS * arch.weight_tiles * arch.weight_load_cycles // _RAM_BITS
    return [
        [f"weights.bank{pair // 2}.ram_0.memory.0.{pair % 2 * of_pair + ram}" for ram in range(of_pair)]
        for pair in range(len(_PAIRS))
    ]


def _tables(arch: ArchConfig) -> list[str]:
    return [
        name
        for lane in range(arch.lanes)
        for name in (
            f"vector.cell.lane{lane}.rom.rom_0.memory.0.0",
            f"vector.table.lane{lane}.ram_0.memory.0.0",
            f"output.table.lane{lane}.ram_0.memory.0.0",
        )
    ]


def _params(arch: ArchConfig) -> list[str]:
    bits = arch.param_chunk_bytes * 8 * arch.param_rows * arch.chunks
    return [f"params.bank0.ram_0.memory.0.{ram}" for ram in range(-(-bits // _RAM_BITS))]


def _activations(arch: ArchConfig) -> list[str]:
    """Beside each other what holds the same byte of a vector."""
    of_bank = 8 * arch.act_block_bytes // arch.act_width // _RAM_BITS
    return [
        f"scratchpad.bank{block}_{bank}.ram_0.memory.0.{ram}"
        for bank in range(arch.act_width)
        for block in range(arch.act_blocks)
        for ram in range(of_bank)
    ]
