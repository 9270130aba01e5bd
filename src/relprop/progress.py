"""What takes longer than a second says how far it is, on the terminal; nothing is said where there is none."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import ClassVar, TextIO, TypeVar

T = TypeVar("T")


class Progress:
    """Say what is being done, in one line of standard error that goes away when it is done.

    Nothing is shown in the first second, and nothing at all where standard error is no terminal. Where one runs inside
    another, the inner one is shown.

    Example:
        with Progress(total=4) as progress:
            for name in names:
                progress.step(f"explaining with {name}")
                ...
    """

    delay = 1.0
    tick = 0.2
    _open: ClassVar[list[Progress]] = []

    def __init__(self, total: int = 0, stream: TextIO | None = None, text: str = "") -> None:
        self._total = total
        self._stream = sys.stderr if stream is None else stream
        self._done = 0
        self._text = text
        self._width = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Progress:
        if self._stream.isatty():
            self._begun = time.monotonic()
            self._open.append(self)
            self._thread = threading.Thread(target=self._show, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._open.remove(self)
            self._draw("")

    def step(self, text: str) -> None:
        """The next step begins."""
        self._done += 1
        self._text = text

    def _show(self) -> None:
        if self._stop.wait(self.delay):
            return
        while not self._stop.wait(self.tick):
            self._draw(self._line() if self._open[-1] is self else "")

    def _line(self) -> str:
        passed = time.monotonic() - self._begun
        if not self._total:
            return f"{self._text} {passed:.0f} s"
        finished = min(self._done, self._total) - 1
        line = f"{self._text} [{finished + 1}/{self._total}] {passed:.0f} s"
        return line + (f", about {passed / finished * (self._total - finished):.0f} s left" if finished > 0 else "")

    def _draw(self, text: str) -> None:
        if text or self._width:
            self._stream.write("\r" + text.ljust(self._width) + ("" if text else "\r"))
            self._stream.flush()
            self._width = len(text)


def track(items: Iterable[T], total: int, text: str) -> Iterator[T]:
    """Hand the items on, and say how far it is, whether making an item takes long or what is done with it."""
    with Progress(total) as progress:
        progress.step(text)
        for item in items:
            yield item
            progress.step(text)
