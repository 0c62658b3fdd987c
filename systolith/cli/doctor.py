"""The command `doctor`: is everything there that the program needs, or does a board work?"""

from __future__ import annotations

import click

from systolith.cli.options import EXIT_REFUSED, json_option, tools_option
from systolith.doctor import Check, check_installation
from systolith.report import reporter_for, write_json
from systolith.spec.outputs import check_outputs

__all__ = ["doctor"]


@click.command()
@click.option("--board", metavar="NAME", help="Check a board instead, on --port.")
@click.option("--port", metavar="PORT", help="Its serial port, or sim:NAME for a board in simulation.")
@tools_option
@json_option
@click.pass_context
def doctor(context: click.Context, board: str | None, port: str | None, json_path: str | None) -> None:
    """Check Python, packages and tools; or link, core, memory, clock and a program of a board, whose memory
    is overwritten."""
    check_outputs({"--json": json_path})
    if board is not None or port is not None:
        _board_doctor(context, board, port, json_path)
        return
    checks = check_installation()
    _print(checks, "systolith doctor", "MISSING", json_path, {})
    missing = [check.name for check in checks if check.ok is False]
    if missing:
        click.echo(f"systolith: {', '.join(missing)} missing; the lines above say how to install", err=True)
        context.exit(EXIT_REFUSED)


def _board_doctor(context: click.Context, name: str | None, port: str | None, json_path: str | None) -> None:
    from systolith.board_doctor import check_board
    from systolith.device_port import find_board

    if name is None or port is None:
        raise click.ClickException(
            "a board is checked with both --board, its name, and --port, its serial port or sim:NAME"
        )
    board = find_board(name, "--board")
    with reporter_for(json_path).progress() as progress:
        checks = check_board(board, port, progress)
    _print(checks, f"systolith doctor: {name} on {port}", "FAILED", json_path, {"board": name, "port": port})
    failed = next((check for check in checks if not check.ok), None)
    if failed is not None:
        click.echo(f"systolith: {name} fails at its {failed.name}: {failed.detail}", err=True)
        context.exit(EXIT_REFUSED)


def _print(
    checks: list[Check], title: str, bad: str, json_path: str | None, about: dict[str, str | None]
) -> None:
    states = {True: "ok", False: bad, None: "-"}
    rows = [(check.name, states[check.ok], check.detail) for check in checks]
    reporter_for(json_path).table(title, ("check", "state", "detail"), rows, left=3)
    listed = [{"name": check.name, "ok": check.ok, "detail": check.detail} for check in checks]
    write_json(json_path, {"ok": all(check.ok is not False for check in checks), **about, "checks": listed})
