"""Arrays of colours to files, with pillow: one picture as PNG, frames as a film."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from relprop.errors import InputError
from relprop.extras import require
from relprop.render.palette import Colours

FILM_FORMATS = {".gif": "GIF", ".png": "PNG", ".webp": "WEBP"}


def png_bytes(picture: Colours) -> bytes:
    """An array [H, W, 3] of uint8 as a PNG file's content; the same array gives the same bytes."""
    image = require("PIL.Image", "render", "writing a PNG")
    buffer = io.BytesIO()
    image.fromarray(_checked(picture, 3)).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def save_array(picture: Colours, path: str | Path) -> Path:
    """Write an array [H, W, 3] of uint8 as PNG, pixel by pixel."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: an array of colours is written as .png; figures also as .svg and .pdf")
    return write_atomically(path, png_bytes(picture))


def save_film(pictures: Colours, path: str | Path, *, rate: float = 12.5) -> Path:
    """Write frames [T, H, W, 3] of uint8 as a film that a browser plays: .gif, .png (animated) or .webp.

    Args:
        rate: frames a second.
    """
    image = require("PIL.Image", "render", "writing a film")
    path = check_destination(path, tuple(FILM_FORMATS), "a film")
    kind = FILM_FORMATS[path.suffix.lower()]
    if not rate > 0:
        raise InputError(f"rate must be positive, got {rate}")
    first, *others = (image.fromarray(frame) for frame in _checked(pictures, 4))
    buffer = io.BytesIO()
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    first.save(
        buffer,
        format=kind,
        save_all=True,
        append_images=others,
        duration=round(1000 / rate),
        loop=0,
        **options,
    )
    return write_atomically(path, buffer.getvalue())


def check_destination(path: str | Path, suffixes: Sequence[str], what: str) -> Path:
    """Whether a file can be written there, asked before the work begins.

    Args:
        suffixes: those that it may have.
        what: is written, for the message.

    Raises:
        InputError: for another suffix, a folder that is not there, or one in which nothing may be written.
    """
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path}: {what} is written as {', '.join(suffixes)}, not {path.suffix or 'without a suffix'}")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a file name")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise InputError(f"{path} cannot be written")
    return path


def write_atomically(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all."""
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}")
    beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        beside.unlink(missing_ok=True)
    return path


def _checked(array: Colours, axes: int) -> Colours:
    array = np.ascontiguousarray(array)
    if array.dtype != np.uint8 or array.ndim != axes or array.shape[-1] != 3 or 0 in array.shape:
        shape = "[H, W, 3]" if axes == 3 else "[T, H, W, 3]"
        raise InputError(f"colours are {shape} of uint8; got {array.dtype} of shape {array.shape}")
    return array
