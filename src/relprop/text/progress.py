"""A bar on the terminal for what takes longer than a second; nothing where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def track(items: Iterable[T], total: int, text: str, delay: float = 1.0) -> Iterator[T]:
    """Hand the items on, with a bar on standard error once it has taken `delay` seconds.

    The bar goes away at the end, and is not there at all where standard error is no terminal or rich is missing.
    """
    if not sys.stderr.isatty():
        yield from items
        return
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ModuleNotFoundError:
        yield from items
        return
    begun = time.monotonic()
    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task(text, total=total)
    shown = False
    try:
        for item in items:
            if not shown and time.monotonic() - begun > delay:
                bar.start()
                shown = True
            yield item
            bar.advance(task)
    finally:
        if shown:
            bar.stop()
