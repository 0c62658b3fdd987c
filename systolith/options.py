"""Options that several commands have."""

from __future__ import annotations

import functools

import click

from systolith.spec.arch import PRESETS
from systolith.spec.memory import FULL_RATE, MemoryTiming

__all__ = ["ARCH_HELP", "arch_option", "calib_options", "memory_options", "port_option"]

ARCH_HELP = f"A preset ({', '.join(PRESETS)}) or a TOML file."
arch_option = click.option("--arch", required=True, metavar="NAME_OR_TOML", help=ARCH_HELP)


class _State(click.ParamType):
    """`hn:h`: an output and the input that it is given as in the next run."""

    name = "OUTPUT:INPUT"

    def convert(self, value, param, ctx):
        output, colon, source = value.rpartition(":")
        if not (output and colon and source):
            self.fail(f"{value!r} is not OUTPUT:INPUT: name an output and the input that it is given as in the next run, as in hn:h", param, ctx)
        return output, source


def calib_options(command):
    """Options `--calib` and `--state`, which say how a model is to be imported."""

    @click.option("--calib", metavar="DATA.npz", help="Calibration data for a float model: per input, samples stacked on the first axis.")
    @click.option("--state", "states", multiple=True, type=_State(), help="State that stays on the core from run to run; may be given more than once.")
    @functools.wraps(command)
    def with_states(*args, states: tuple[tuple[str, str], ...], **kwargs):
        return command(*args, states=dict(states), **kwargs)

    return with_states


port_option = click.option("--port", metavar="PORT", help="Of board: a serial port, or sim:NAME for a board in simulation.")


def memory_options(command):
    """Options `--latency` and `--bytes-per-cycle`, which arrive as one parameter `memory`."""

    @click.option("--latency", default=FULL_RATE.latency, show_default=True, help="Of external memory, in cycles.")
    @click.option("--bytes-per-cycle", type=int, help="Of external memory; default: what the bus carries.")
    @functools.wraps(command)
    def with_memory(*args, latency: int, bytes_per_cycle: int | None, **kwargs):
        return command(*args, memory=MemoryTiming(latency=latency, bytes_per_cycle=bytes_per_cycle), **kwargs)

    return with_memory
