"""The progress line: only on a terminal, only after a while, and gone at the end."""

from __future__ import annotations

import io
import threading

import pytest

from relprop.cli.progress import Progress


def _ours() -> list[threading.Thread]:
    """Threads that a progress line runs in; other libraries have some of their own."""
    return [t for t in threading.enumerate() if "_show" in t.name]


class Terminal(io.StringIO):
    """A stream that says it is a terminal, and tells when something was written."""

    def __init__(self) -> None:
        super().__init__()
        self.wrote = threading.Event()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        count = super().write(text)
        self.wrote.set()
        return count


def test_nothing_where_the_output_is_no_terminal() -> None:
    stream = io.StringIO()
    with Progress(total=2, stream=stream) as progress:
        progress.step("loading")
    assert stream.getvalue() == "" and not _ours()


def test_nothing_where_it_is_quick() -> None:
    stream = Terminal()
    with Progress(stream=stream) as progress:
        progress.step("loading")
    assert stream.getvalue() == ""


def test_a_line_where_it_takes_longer_and_none_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Progress, "delay", 0.0)
    monkeypatch.setattr(Progress, "tick", 0.001)
    stream = Terminal()
    with Progress(total=3, stream=stream) as progress:
        progress.step("loading")
        progress.step("explaining")
        assert stream.wrote.wait(30)
    assert "\rexplaining [2/3] 0 s" in stream.getvalue()
    last = stream.getvalue().rsplit("\r", 2)
    assert last[-1] == "" and last[-2].strip() == ""  # overwritten with spaces, the cursor at the start
    assert "\n" not in stream.getvalue() and not _ours()


def test_it_goes_away_when_an_error_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Progress, "delay", 0.0)
    monkeypatch.setattr(Progress, "tick", 0.001)
    stream = Terminal()
    with pytest.raises(KeyError), Progress(stream=stream) as progress:
        progress.step("loading")
        assert stream.wrote.wait(30)
        raise KeyError
    assert stream.getvalue().endswith("\r") and not _ours()
