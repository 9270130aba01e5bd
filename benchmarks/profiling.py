"""Where the time of one explanation goes, and what in it would wait for a device."""

from __future__ import annotations

import sys
import traceback
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.cases import Case
from benchmarks.contenders import CONTENDERS, UNIT, Call
from benchmarks.contenders.own import CONTENDER as OWN
from benchmarks.worker import Job

_ROWS = 25


class Waits(TorchDispatchMode):
    """Counts operations whose result the host must wait for, by the line that called them.

    The same on a CPU, where nobody waits: so the absence of such operations is shown without a GPU too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func._schema.name
        if name in _WAITING or (name == "aten::_to_copy" and _leaves_device(args, kwargs or {})):
            self.found[f"{name} at {_caller()}"] += 1
        return func(*args, **(kwargs or {}))


_WAITING = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::equal",
    "aten::_unique2",
    "aten::is_nonzero",
}


def _leaves_device(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    device = kwargs.get("device")
    return device is not None and args[0].device.type != "cpu" and torch.device(device).type == "cpu"


def _caller() -> str:
    """The innermost line that is neither torch's nor ours."""
    for frame in reversed(traceback.extract_stack()):
        path = frame.filename.replace("\\", "/")
        if "/torch/" not in path and "/benchmarks/" not in path:
            return f"{'/'.join(path.split('/')[-3:])}:{frame.lineno} ({frame.name})"
    return "torch"


def main(cases: Sequence[Case], only: Sequence[str] | None, device: str, dtype: torch.dtype, threads: int) -> int:
    for case in cases:
        for preset in case.presets:
            if only and preset not in only:
                continue
            for name in (UNIT.name, OWN.name):
                if not CONTENDERS[name].installed():
                    print(f"{name} is not installed", file=sys.stderr)
                    return 1
                job = Job(case.build, preset, name, device, dtype, threads)
                call = job.start()
                job.seconds(call)  # warm-up
                print(f"\n## {case.title}, {preset}: {name}\n")
                print(operators(job, call))
                print("\n".join(waits(job, call)))
    return 0


def operators(job: Job, call: Call) -> str:
    """The profiler's table, by time of the operator itself."""
    activities = [ProfilerActivity.CPU]
    if job.device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities, profile_memory=True) as found:
        call()
        job.wait()
    key = "self_cuda_time_total" if job.device == "cuda" else "self_cpu_time_total"
    return str(found.key_averages().table(sort_by=key, row_limit=_ROWS, max_name_column_width=48))


def waits(job: Job, call: Call) -> list[str]:
    """Operations that make the host wait for the device, by the line that called them."""
    counter = Waits()
    with counter:
        call()
    lines = [f"- {count} x {where}" for where, count in counter.found.most_common()]
    if job.device == "cuda":
        lines += _synchronisations(job, call)
    return ["Waits for the device:", *(lines or ["- none"])]


def _synchronisations(job: Job, call: Call) -> list[str]:
    """What the CUDA profiler saw of synchronising calls."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        call()
        job.wait()
    counts = Counter({event.key: event.count for event in found.key_averages()})
    counts["cudaDeviceSynchronize"] -= 1  # our own wait after the call
    return [
        f"- profiler: {count} x {key}"
        for key, count in counts.items()
        if count > 0 and ("Synchronize" in key or "DtoH" in key)
    ]


__all__ = ["Waits", "main", "operators", "waits"]
