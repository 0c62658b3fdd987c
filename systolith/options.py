"""Options that several commands have."""

from __future__ import annotations

import functools

import click

from systolith.spec.arch import PRESETS
from systolith.spec.memory import FULL_RATE, MemoryTiming

__all__ = ["ARCH_HELP", "arch_option", "import_options", "memory_options", "port_option"]

ARCH_HELP = f"A preset ({', '.join(PRESETS)}) or a TOML file."
arch_option = click.option("--arch", required=True, metavar="NAME_OR_TOML", help=ARCH_HELP)


class _State(click.ParamType):
    """`hn:h`: an output and the input that it is given as in the next run."""

    name = "OUTPUT:INPUT"

    def convert(self, value, param, ctx):
        output, colon, source = value.rpartition(":")
        if not (output and colon and source):
            self.fail(
                f"{value!r} is not OUTPUT:INPUT: name an output and the input that it is given as in the "
                f"next run, as in hn:h",
                param,
                ctx,
            )
        return output, source


def import_options(command):
    """Options `--calib`, `--percentile`, `--state` and `--hidden`, which arrive as one parameter `importing`:
    keywords of the API's functions."""

    @click.option(
        "--calib",
        metavar="DATA.npz",
        help="Calibration data for a float model: per input, samples stacked on the first axis.",
    )
    @click.option(
        "--percentile",
        type=click.FloatRange(50, 100, min_open=True),
        default=100.0,
        show_default=True,
        help="Share of the calibration data's values that int8 covers, tensor by tensor; the rest saturates.",
    )
    @click.option(
        "--state",
        "states",
        multiple=True,
        type=_State(),
        help="State that stays on the core from run to run; may be given more than once.",
    )
    @click.option(
        "--hidden",
        type=click.Choice(["8", "16", "auto"]),
        default="8",
        show_default=True,
        help="Bits of the hidden states of recurrent layers.",
    )
    @functools.wraps(command)
    def with_importing(
        *args,
        calib: str | None,
        percentile: float,
        states: tuple[tuple[str, str], ...],
        hidden: str,
        **kwargs,
    ):
        return command(
            *args,
            importing={"calib": calib, "states": dict(states), "hidden": hidden, "percentile": percentile},
            **kwargs,
        )

    return with_importing


port_option = click.option(
    "--port", metavar="PORT", help="Of board: a serial port, or sim:NAME for a board in simulation."
)


def memory_options(command):
    """Options `--latency` and `--bytes-per-cycle`, which arrive as one parameter `memory`."""

    @click.option(
        "--latency", default=FULL_RATE.latency, show_default=True, help="Of external memory, in cycles."
    )
    @click.option("--bytes-per-cycle", type=int, help="Of external memory; default: what the bus carries.")
    @functools.wraps(command)
    def with_memory(*args, latency: int, bytes_per_cycle: int | None, **kwargs):
        return command(*args, memory=MemoryTiming(latency=latency, bytes_per_cycle=bytes_per_cycle), **kwargs)

    return with_memory
