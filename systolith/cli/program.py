"""The commands together, and what becomes of their errors.

No traceback reaches a user; SYSTOLITH_DEBUG=1 shows it to a developer.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings

import click

from systolith.cli.assembly import asm, disasm
from systolith.cli.build import build
from systolith.cli.cache import cache
from systolith.cli.compile import compile_command
from systolith.cli.doctor import doctor
from systolith.cli.explain import explain
from systolith.cli.options import EXIT_REFUSED
from systolith.cli.run import run
from systolith.cli.verify import verify
from systolith.options import FarFromFloatWarning
from systolith.spec.errors import SystolithError
from systolith.spec.printable import printable

__all__ = ["cli", "execute"]


class _Program(click.Group):
    """Commands whose interruption is told by `cli.main`, not by click, which adds an empty line."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _InterruptedError from None


class _InterruptedError(Exception):
    """Ctrl-C, on its way through click."""


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="systolith")
def cli() -> None:
    """From an ONNX model to a systolic accelerator, bit for bit."""


for _command in (compile_command, run, verify, explain, asm, disasm, build, doctor, cache):
    cli.add_command(_command)


def execute(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status.

    Raises
    ------
    KeyboardInterrupt   After Ctrl-C.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", FarFromFloatWarning)
            warnings.showwarning = _warn
            return cli.main(args=arguments, prog_name="systolith", standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return EXIT_REFUSED
    except click.UsageError as error:
        hint = f" Try '{error.ctx.command_path} -h'." if error.ctx is not None else ""
        return _refuse(error.format_message() + hint)
    except click.ClickException as error:
        return _refuse(error.format_message())
    except (_InterruptedError, click.exceptions.Abort):
        raise KeyboardInterrupt from None
    except BrokenPipeError:
        # The reader of a pipe left: not an error, but Python must not complain while it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("SYSTOLITH_DEBUG"):
            traceback.print_exc()
        if isinstance(error, OSError) and error.filename is not None:
            return _refuse(f"cannot use {str(error.filename)!r}: {error.strerror}")
        if isinstance(error, (SystolithError, OSError)):
            # What a tool printed may follow the sentence; SYSTOLITH_DEBUG shows it.
            return _refuse(str(error).partition("\n")[0])
        return _refuse(
            f"internal error ({type(error).__name__}: {error}): please report it; SYSTOLITH_DEBUG=1 shows "
            f"where"
        )


def _warn(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """What libraries warn of concerns their users, not ours."""
    if issubclass(category, FarFromFloatWarning):
        click.echo(f"systolith: warning: {printable(' '.join(str(message).split()))}", err=True)


def _refuse(text: str) -> int:
    # One sentence on one line, whatever the exception held.
    click.echo("systolith: " + printable(" ".join(text.split())), err=True)
    return EXIT_REFUSED
