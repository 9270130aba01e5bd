"""The kind of machine and the versions that a result belongs to."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from pathlib import Path

import torch

from benchmarks.contenders import Contender


def describe(device: torch.device, dtype: torch.dtype, threads: int, clock: str = "wall") -> dict[str, object]:
    """Kind of processor and accelerator, threads and precision: nothing that names a particular machine."""
    facts: dict[str, object] = {
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": threads,
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
    }
    if clock != "wall":
        facts["times"] = "processor time of the process"
    if device.type == "cuda":
        facts["accelerator"] = torch.cuda.get_device_name(device)
    return facts


def processor() -> str:
    """The processor's model name, with what tells generations apart where the name does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = facts.get("model name", platform.machine())
    wide = [flag for flag in ("avx2", "avx512f", "amx_bf16") if flag in facts.get("flags", "").split()]
    return f"{name} ({', '.join(wide)})" if wide else name


def versions(contenders: Iterable[Contender]) -> dict[str, str]:
    """Python, torch and every contender that is installed."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for contender in contenders:
        version = contender.version()
        if version is not None:
            found[contender.name] = version
    return found
