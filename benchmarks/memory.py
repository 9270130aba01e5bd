"""Peak memory of one call, in a fresh process each."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from benchmarks.contenders import CONTENDERS
from benchmarks.worker import Failed, Job, worker

# glibc's allocator keeps freed blocks or gives them back depending on what was freed before, which moves a peak
# by half from run to run. So told, it gives every large block back at once, and peaks agree to a hundredth.
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def peak(job: Job) -> int | None:
    """Bytes that the first call of a fresh process adds at its peak; None where the contender has none."""
    if not CONTENDERS[job.contender].installed():
        return None
    try:
        with _environment(_ALLOCATOR), worker(job) as running:
            return int(running.number("peak"))
    except Failed:
        return None


@contextlib.contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """Processes that start within the block have these settings; they are read once, at their start."""
    before = {key: os.environ.get(key) for key in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
