"""The progress line: only on a terminal, only after a while, and gone at the end."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import relprop as rp
from relprop.progress import Progress, track


def _ours() -> list[threading.Thread]:
    """Threads that a progress line still runs in, once it had the time to end."""
    found = [t for t in threading.enumerate() if t.name == "relprop progress"]
    for thread in found:
        thread.join(30)
    return [t for t in found if t.is_alive()]


class Terminal(io.StringIO):
    """A stream that says it is a terminal, and tells when something was written."""

    def __init__(self) -> None:
        super().__init__()
        self.wrote = threading.Event()

    def isatty(self) -> bool:
        return True

    def wait(self) -> None:
        """Until something more was written."""
        self.wrote.clear()
        assert self.wrote.wait(30)

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


def test_it_says_how_much_is_left_once_it_can_be_known(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = Progress(total=4, stream=Terminal())
    clock = [100.0]
    monkeypatch.setattr("relprop.progress.time.monotonic", lambda: clock[0])
    progress._begun = 100.0
    progress.step("reading")
    clock[0] = 103.0
    assert progress._line() == "reading [1/4] 3 s"
    progress.step("reading")
    assert progress._line() == "reading [2/4] 3 s, about 9 s left"
    for _ in range(4):
        progress.step("reading")
    assert progress._line() == "reading [4/4] 3 s, about 1 s left"
    unknown = Progress(stream=Terminal(), text="loading")
    unknown._begun = 100.0
    assert unknown._line() == "loading 3 s"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard error as a terminal, on which lines appear at once."""
    monkeypatch.setattr(Progress, "delay", 0.0)
    monkeypatch.setattr(Progress, "tick", 0.001)
    found = Terminal()
    # Not sys.stderr itself: pytest sets that anew between a fixture and its test.
    monkeypatch.setattr("relprop.progress.sys", SimpleNamespace(stderr=found))
    assert not _ours()
    return found


def test_items_are_handed_on_and_counted(terminal: Terminal) -> None:
    handed = []
    for item in track(iter("abc"), 3, "reading"):
        handed.append(item)
        terminal.wrote.clear()
        assert terminal.wrote.wait(30)
    assert handed == ["a", "b", "c"] and not _ours()
    counts = re.findall(r"reading \[(\d)/3\]", terminal.getvalue())
    assert counts == sorted(counts) and counts[0] == "1" and counts[-1] == "3"
    assert list(track([], 0, "nothing")) == []


def test_of_two_lines_the_inner_one_is_shown_and_then_the_outer_again(terminal: Terminal) -> None:
    def wait_for(text: str) -> None:
        for _ in range(10_000):
            terminal.wrote.wait(0.01)
            terminal.wrote.clear()
            if terminal.getvalue().rsplit("\r", 1)[-1].strip().startswith(text):
                return
        raise AssertionError(f"{text!r} was not shown last: {terminal.getvalue()[-200:]!r}")

    with Progress(text="outer"):
        wait_for("outer")
        with Progress(text="inner"):
            wait_for("inner")
        wait_for("outer")
    assert not _ours() and not Progress._open


def _plan() -> None:
    rp.LRP(nn.Sequential(Slow(), nn.Linear(3, 2))).plan(torch.ones(1, 3))


def _one_target() -> None:
    rp.LRP(nn.Sequential(Slow(), nn.Linear(3, 2))).explain(torch.ones(1, 3), target=0)


def _many_targets() -> None:
    rp.LRP(nn.Sequential(Slow(), nn.Linear(3, 2))).explain(torch.ones(1, 3), targets=[0, 1])


def _metric() -> None:
    rp.metrics.flipping_curve(Slow(), torch.rand(2, 3), torch.rand(2, 3), steps=2, batch_size=1)


def _tuning() -> None:
    pytest.importorskip("optuna", reason="tuning needs optuna")
    model = nn.Sequential(Slow(), nn.Linear(3, 2))
    rp.tune(model, [torch.rand(2, 3)], trials=2, metric_options={"steps": 2})


def _table() -> None:
    rp.tabular.Explainer(nn.Sequential(Slow(), nn.Linear(3, 2)), batch_size=1).explain_batch(np.ones((3, 3)))


class Slow(nn.Module):
    """Passes on what it is given, once the terminal was written to."""

    terminal: Terminal | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.terminal is not None and Progress._open:
            self.terminal.wrote.clear()
            self.terminal.wrote.wait(5)
        return x * 1.0


@pytest.mark.parametrize(
    ("work", "text"),
    [
        (_one_target, "explain: forward 0 s"),
        (_plan, "plan: forward 0 s"),
        (_many_targets, "explaining ["),
        (_metric, "taking features away ["),
        (_tuning, "tuning"),
        (_table, "explaining ["),
    ],
)
def test_what_takes_long_says_so(
    work: Callable[[], Any], text: str, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Slow, "terminal", terminal)
    work()
    assert text in terminal.getvalue() and not _ours()
    assert terminal.getvalue().endswith("\r")


def test_one_call_says_which_pass_it_is_in(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wait(torch.autograd.Function):
        """The identity, which is slow both ways."""

        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            terminal.wait()
            return x.clone()

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
            terminal.wait()
            return g

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return Wait.apply(x).sum(1)

    rp.LRP(Net()).explain(torch.ones(1, 3), unknown="gradient")
    written = terminal.getvalue()
    assert 0 < written.index("explain: forward 0 s") < written.index("explain: backward 0 s")
    assert written.endswith("\r") and not _ours()


def test_what_knows_how_far_it_is_stays_when_a_call_inside_does_not(terminal: Terminal) -> None:
    with Progress(total=2) as progress:
        progress.step("pictures")
        with Progress(text="explain: forward"):
            terminal.wait()
            terminal.wait()
    assert "pictures [1/2]" in terminal.getvalue() and "forward" not in terminal.getvalue()


def test_calls_that_are_quick_share_a_thread_and_say_nothing(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = threading.Event()
    clock = SimpleNamespace(sleep=lambda tick: looks.wait(30), monotonic=lambda: 0.0)
    monkeypatch.setattr("relprop.progress.time", clock)
    monkeypatch.setattr(Progress, "delay", 1.0)
    started: list[threading.Thread] = []
    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda thread: (started.append(thread), start(thread))[1])
    for _ in range(5):
        rp.LRP(nn.Linear(3, 2)).explain(torch.ones(1, 3), target=0)
    looks.set()
    assert len(started) == 1 and not _ours()
    assert terminal.getvalue() == ""


def test_no_thread_and_no_error_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", lambda thread: pytest.fail("a thread was started"))
    for stream in (io.StringIO(), None):  # None: a program without a console
        monkeypatch.setattr("relprop.progress.sys", SimpleNamespace(stderr=stream))
        rp.LRP(nn.Linear(3, 2)).explain(torch.ones(1, 3), target=0)
