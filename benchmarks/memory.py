"""Peak memory of one call, in a fresh process each."""

from __future__ import annotations

from benchmarks.contenders import CONTENDERS
from benchmarks.worker import Failed, Job, worker


def peak(job: Job) -> int | None:
    """Bytes that the first call of a fresh process adds at its peak; None where the contender has none."""
    if not CONTENDERS[job.contender].installed():
        return None
    try:
        with worker(job) as running:
            return int(running.number("peak"))
    except Failed:
        return None
