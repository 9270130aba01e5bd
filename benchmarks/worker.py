"""One contender on one problem, here or in a fresh process of its own."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import resource
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.cases import Build
from benchmarks.contenders import CONTENDERS, Call

_PATIENCE = 900.0  # seconds; a process that says nothing for so long is stuck


#: By the clock on the wall, or by the processor time of this process (all its threads), which other processes that run
#: on the same machine move less.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Failed(Exception):
    """The contender raised; the text is its error in one line."""


@dataclass(frozen=True)
class Job:
    """What a worker runs."""

    build: Build
    preset: str
    contender: str
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    threads: int = 2
    repeats: int = 1
    clock: str = "wall"

    def start(self) -> Call:
        """Build the problem and let the contender prepare itself."""
        torch.set_num_threads(self.threads)
        return CONTENDERS[self.contender].prepare(self.build(self.dtype, torch.device(self.device)), self.preset)

    def seconds(self, call: Call) -> float:
        """The time of one call, garbage of earlier calls collected before and the device waited for."""
        now = CLOCKS[self.clock]
        gc.collect()
        self.wait()
        begin = now()
        for _ in range(self.repeats):
            call()
        self.wait()
        return (now() - begin) / self.repeats

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def peak(self, call: Call) -> int:
        """Bytes that one call adds at its peak to what the process (or the device) holds before it."""
        gc.collect()
        if self.device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            call()
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated() - before
        before = _resident_now()
        call()
        return _resident_peak() - before


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text[:160]}"


def _resident_now() -> int:
    """The resident set in bytes, after freed memory went back to the system and the peak was set to it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak; a new process inherits its parent's
        return _status("VmRSS")
    except OSError:
        return _resident_peak()


def _resident_peak() -> int:
    try:
        return _status("VmHWM")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {key} in the process status")


class Worker:
    """A job that runs in a process of its own. Every question raises `Failed` with the contender's error."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def number(self, question: str) -> float:
        """Run one call; `question` is "seconds" or "peak" (bytes)."""
        value = self._ask(question)
        assert isinstance(value, (int, float))
        return value

    def relevance(self) -> Tensor:
        """Run one call and return what it computed."""
        value = self._ask("relevance")
        assert isinstance(value, Tensor)
        return value

    def ready(self) -> None:
        """Wait until the job is prepared."""
        self._answer()

    def _ask(self, question: str) -> object:
        self._connection.send(question)
        return self._answer()

    def _answer(self) -> object:
        if not self._connection.poll(_PATIENCE):
            raise Failed(f"no answer within {_PATIENCE:.0f} seconds")
        try:
            kind, value = self._connection.recv()
        except EOFError:
            raise Failed("its process ended, out of memory perhaps") from None
        if kind == "error":
            raise Failed(value)
        if kind == "tensor":
            return torch.from_numpy(value)
        return value


@contextlib.contextmanager
def worker(job: Job) -> Iterator[Worker]:
    """Start the job in a fresh process, which ends with the block. Raises `Failed` if it cannot start."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(job, there), daemon=True)
    process.start()
    there.close()
    try:
        running = Worker(here)
        running.ready()
        yield running
    finally:
        here.close()
        process.join(5)
        if process.is_alive():
            process.kill()
            process.join()


def _serve(job: Job, connection: Connection) -> None:
    warnings.simplefilter("ignore")
    try:
        call = job.start()
        connection.send(("ready", None))
        while True:
            try:
                question = connection.recv()
            except EOFError:
                return
            if question == "relevance":
                connection.send(("tensor", as_plain(call()).numpy()))
            elif question == "seconds":
                connection.send(("number", job.seconds(call)))
            elif question == "peak":
                connection.send(("number", job.peak(call)))
    except Exception as error:
        with contextlib.suppress(OSError):
            connection.send(("error", one_line(error)))


def as_plain(relevance: Tensor) -> Tensor:
    """The relevance as an ordinary float32 tensor on the CPU, to be compared and sent."""
    return relevance.detach().as_subclass(Tensor).float().cpu()
