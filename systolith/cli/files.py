"""Files that commands read."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["read_bytes", "read_text"]


def read_bytes(path: str) -> bytes:
    """The contents of a file that a user named."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise click.ClickException(f"cannot read {path!r}: {error.strerror}") from error


def read_text(path: str) -> str:
    """The text of a file that a user named."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise click.ClickException(
            f"{path!r} is no UTF-8 text: {error.reason} at byte {error.start}"
        ) from error
