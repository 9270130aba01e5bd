"""What takes longer than a second says how far it is, on the terminal; nothing is said where there is none."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, ClassVar, TextIO, TypeVar

T = TypeVar("T")


class Progress:
    """Say what is being done, in one line of standard error that goes away when it is done.

    Nothing is shown in the first second, and nothing at all where standard error is no terminal. Where one runs inside
    another, the innermost one is shown that knows how far it is, or the innermost one where none does.

    All share one thread, which ends with the last of them: a call that is over before it looks costs no thread.

    Example:
        with Progress(total=4) as progress:
            for name in names:
                progress.step(f"explaining with {name}")
                ...
    """

    delay = 1.0
    tick = 0.2
    _open: ClassVar[list[Progress]] = []
    #: The stream that was asked last, and whether it is a terminal: asking is a call of the system.
    _asked: ClassVar[tuple[Any, bool]] = (None, False)
    _thread: ClassVar[threading.Thread | None] = None

    def __init__(self, total: int = 0, stream: TextIO | None = None, text: str = "") -> None:
        self._total = total
        self._stream = sys.stderr if stream is None else stream
        self._done = 0
        self._text = text

    def __enter__(self) -> Progress:
        stream, terminal = Progress._asked
        if stream is not self._stream:  # a program without a console has no standard error
            terminal = self._stream is not None and self._stream.isatty()
            Progress._asked = self._stream, terminal
        self._shown = terminal
        if self._shown:
            self._begun = time.monotonic()
            self._width = 0
            self._drawing = threading.Lock()
            self._open.append(self)
            _watch()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            self._open.remove(self)
            self._draw("", last=True)

    def step(self, text: str) -> None:
        """The next step begins."""
        self._done += 1
        self._text = text

    def _line(self) -> str:
        passed = time.monotonic() - self._begun
        if not self._total:
            return f"{self._text} {passed:.0f} s"
        finished = min(self._done, self._total) - 1
        line = f"{self._text} [{finished + 1}/{self._total}] {passed:.0f} s"
        return line + (f", about {passed / finished * (self._total - finished):.0f} s left" if finished > 0 else "")

    def _draw(self, text: str, last: bool = False) -> None:
        with self._drawing:
            if self._shown and (text or self._width):
                self._stream.write("\r" + text.ljust(self._width) + ("" if text else "\r"))
                self._stream.flush()
                self._width = len(text)
            self._shown = self._shown and not last


def _watch() -> None:
    """See to it that the thread runs."""
    thread = Progress._thread
    if thread is None or not thread.is_alive():
        Progress._thread = threading.Thread(target=_show, daemon=True, name="relprop progress")
        Progress._thread.start()


def _show() -> None:
    """Draw what is open until nothing is."""
    while True:
        time.sleep(Progress.tick)
        still = list(Progress._open)
        if not still:
            Progress._thread = None
            if Progress._open:  # begun since, by somebody who saw this thread alive
                _watch()
            return
        shown = next((p for p in reversed(still) if p._total), still[-1])
        for one in still:
            late = time.monotonic() - one._begun >= Progress.delay
            one._draw(one._line() if one is shown and late else "")


def track(items: Iterable[T], total: int, text: str) -> Iterator[T]:
    """Hand the items on, and say how far it is, whether making an item takes long or what is done with it."""
    with Progress(total) as progress:
        progress.step(text)
        for item in items:
            yield item
            progress.step(text)
