"""Contenders in turn, round after round."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from benchmarks.contenders import CONTENDERS, UNIT, NotOffered
from benchmarks.contenders.own import CONTENDER as OWN
from benchmarks.worker import Failed, Job, as_plain, one_line, worker


@dataclass
class Timing:
    """One contender's times. `status` is "measured", or why there are none."""

    contender: str
    status: str = "measured"
    seconds: list[float] = field(default_factory=list)
    ratio: float | None = None
    difference: float | None = None

    @property
    def median(self) -> float | None:
        return statistics.median(self.seconds) if self.seconds else None


@dataclass
class _Entrant:
    timing: Timing
    seconds: Callable[[], float]
    relevance: Tensor


def measure(
    jobs: Sequence[Job],
    rounds: int,
    warmup: int,
    report: Callable[[str], None] = lambda text: None,
    reference: Job | None = None,
) -> list[Timing]:
    """Time the jobs in turn, one call each a round, and compare what they computed.

    `ratio` is the median over the rounds of a contender's time over the unit's in the same round;
    `difference` is the relative Euclidean distance of its relevance from relprop's, and of relprop's from that of
    the reference, which is relprop elsewhere (on a CPU, say).
    """
    with contextlib.ExitStack() as processes:
        timings, entrants = [], []
        for job in jobs:
            report(f"{job.contender}: prepare")
            timing = Timing(job.contender)
            timings.append(timing)
            entrant = _enter(job, timing, processes)
            if entrant is not None:
                entrants.append(entrant)
        for number in range(warmup + rounds):
            report(f"round {number - warmup + 1} of {rounds}" if number >= warmup else "warm-up")
            for entrant in list(entrants):
                try:
                    seconds = entrant.seconds()
                except Exception as error:  # whatever a peer raises is its result
                    entrant.timing.status = f"fails: {one_line(error)}"
                    entrant.timing.seconds.clear()
                    entrants.remove(entrant)
                    continue
                if number >= warmup:
                    entrant.timing.seconds.append(seconds)
    _compare(entrants)
    for entrant in entrants:
        if reference is not None and entrant.timing.contender == OWN.name:
            report("the same on the reference")
            entrant.timing.difference = relative_difference(entrant.relevance, as_plain(reference.start()()))
    return timings


def _enter(job: Job, timing: Timing, processes: contextlib.ExitStack) -> _Entrant | None:
    contender = CONTENDERS[job.contender]
    if not contender.installed():
        timing.status = "not installed"
        return None
    try:
        if contender.apart:
            running = processes.enter_context(worker(job))
            relevance = running.relevance()
            return _Entrant(timing, lambda: running.number("seconds"), relevance)
        call = job.start()
        return _Entrant(timing, lambda: job.seconds(call), as_plain(call()))
    except NotOffered:
        timing.status = "not offered"
    except Failed as error:
        text = str(error)
        timing.status = "not offered" if text.startswith("NotOffered") else f"fails: {text}"
    except Exception as error:  # whatever a peer raises is its result
        timing.status = f"fails: {one_line(error)}"
    return None


def _compare(entrants: Sequence[_Entrant]) -> None:
    by_name = {entrant.timing.contender: entrant for entrant in entrants}
    unit, own = by_name.get(UNIT.name), by_name.get(OWN.name)
    for name, entrant in by_name.items():
        if unit is not None:
            rounds = zip(entrant.timing.seconds, unit.timing.seconds)
            entrant.timing.ratio = statistics.median(ours / theirs for ours, theirs in rounds)
        if own is not None and name not in (UNIT.name, OWN.name):
            entrant.timing.difference = relative_difference(entrant.relevance, own.relevance)


def relative_difference(a: Tensor, b: Tensor) -> float:
    """`|a - b| / |b|`, Euclidean; NaN where the shapes differ or either is not finite."""
    if a.shape != b.shape:
        return math.nan
    a, b = a.double(), b.double()
    return float((a - b).norm() / b.norm())
