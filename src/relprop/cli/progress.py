"""A line on the terminal that says what is being done, where it takes longer than a second."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TextIO


class Progress:
    """Say what is being done, in one line of standard error that goes away when it is done.

    Nothing is shown in the first second, and nothing at all where standard error is no terminal.

    Example:
        with Progress(total=4) as progress:
            for name in names:
                progress.step(f"explaining with {name}")
                ...
    """

    delay = 1.0
    tick = 0.2

    def __init__(self, total: int = 0, stream: TextIO | None = None) -> None:
        self._total = total
        self._stream = sys.stderr if stream is None else stream
        self._done = 0
        self._text = ""
        self._width = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Progress:
        if self._stream.isatty():
            self._begun = time.monotonic()
            self._thread = threading.Thread(target=self._show, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._draw("")

    def step(self, text: str) -> None:
        """The next step begins."""
        self._done += 1
        self._text = text

    def _show(self) -> None:
        if self._stop.wait(self.delay):
            return
        while not self._stop.wait(self.tick):
            count = f" [{self._done}/{self._total}]" if self._total else ""
            self._draw(f"{self._text}{count} {time.monotonic() - self._begun:.0f} s")

    def _draw(self, text: str) -> None:
        if text or self._width:
            self._stream.write("\r" + text.ljust(self._width) + ("" if text else "\r"))
            self._stream.flush()
            self._width = len(text)
