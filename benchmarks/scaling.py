"""How the cost grows: time with batch, pixels and depth; memory with depth, checkpointed or not."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks import memory, presets, timing
from benchmarks.cases import Build, Problem, llama, problem, vision
from benchmarks.contenders import CONTENDERS, UNIT
from benchmarks.contenders.own import CONTENDER as OWN
from benchmarks.machine import describe, versions
from benchmarks.table import duration
from benchmarks.worker import Job

_BLOCK = {
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 1024,
}


@dataclass(frozen=True)
class Sweep:
    """One quantity that grows while all else stays."""

    name: str
    preset: str
    builds: Mapping[int, Build]


@dataclass(frozen=True)
class Point:
    """Seconds of one explanation at one size, and those of gradient x input in the same rounds."""

    size: int
    seconds: float
    unit: float


class Stack(nn.Module):
    """`depth` convolutions with ReLU between; checkpointed in about `sqrt(depth)` segments of as many."""

    def __init__(self, depth: int, channels: int, checkpointed: bool) -> None:
        super().__init__()
        self.entry = nn.Conv2d(3, channels, 3, padding=1)
        layers = [self.layer(channels) for _ in range(depth)]
        length = math.isqrt(depth)
        self.segments = nn.ModuleList(nn.Sequential(*layers[i : i + length]) for i in range(0, depth, length))
        self.head = nn.Linear(channels, 10)
        self.checkpointed = checkpointed

    @staticmethod
    def layer(channels: int) -> nn.Module:
        convolution = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        return nn.Sequential(convolution, nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x).relu()
        for segment in self.segments:
            x = checkpoint(segment, x, use_reentrant=False) if self.checkpointed else segment(x)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def stack(dtype: torch.dtype, device: torch.device, *, depth: int, checkpointed: bool) -> Problem:
    """A plain network whose depth is free."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 3, 96, 96, generator=generator)
    return problem(Stack(depth, 64, checkpointed), x, dtype, device)


SWEEPS = (
    Sweep(
        "batch, ResNet-18, 112² pixels",
        presets.PLUS,
        {n: partial(vision, name="resnet18", batch=n, size=112) for n in (2, 4, 8, 16)},
    ),
    Sweep(
        "pixels, ResNet-18, one picture",
        presets.PLUS,
        {n * n: partial(vision, name="resnet18", batch=1, size=n) for n in (112, 160, 224, 320)},
    ),
    Sweep(
        "layers, Llama shape, 256 wide, 256 tokens",
        presets.ATTENTION,
        {n: partial(llama, tokens=256, shape={**_BLOCK, "num_hidden_layers": n}) for n in (4, 8, 16, 32)},
    ),
)
DEPTHS = (9, 16, 36, 64)


def main(device: str, dtype: torch.dtype, threads: int, rounds: int, folder: Path) -> int:
    """Measure everything, print it and keep it."""

    def job(build: Build, preset: str, contender: str) -> Job:
        return Job(build, preset, contender, device, dtype, threads)

    points: dict[str, list[Point]] = {}
    for sweep in SWEEPS:
        points[sweep.name] = []
        for size, build in sweep.builds.items():
            print(f"{sweep.name}: {size}", file=sys.stderr, flush=True)
            unit, own = timing.measure([job(build, sweep.preset, name) for name in (UNIT.name, OWN.name)], rounds, 2)
            if own.median is None or unit.median is None:
                print(f"relprop {own.status}", file=sys.stderr)
                return 1
            points[sweep.name].append(Point(size, own.median, unit.median))
    peaks: dict[str, dict[int, int | None]] = {}
    for name in (UNIT.name, OWN.name):
        for checkpointed in (False, True):
            label = f"{name}{', checkpointed' if checkpointed else ''}"
            print(f"memory: {label}", file=sys.stderr, flush=True)
            peaks[label] = {
                depth: memory.peak(job(partial(stack, depth=depth, checkpointed=checkpointed), presets.PLUS, name))
                for depth in DEPTHS
            }
    setting = {
        **describe(torch.device(device), dtype, threads),
        **versions(CONTENDERS[name] for name in (UNIT.name, OWN.name)),
    }
    text = markdown(points, peaks, setting)
    print(text)
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"scaling-{device}-{str(dtype).removeprefix('torch.').replace('bfloat16', 'bf16')}"
    (folder / f"{stem}.md").write_text(text)
    kept = {
        "setting": setting,
        "time": {k: [asdict(p) for p in v] for k, v in points.items()},
        "memory": peaks,
    }
    (folder / f"{stem}.json").write_text(json.dumps(kept, indent=1) + "\n")
    return 0


def line(points: Sequence[Point]) -> tuple[float, float, float]:
    """Least squares `seconds = fixed + slope * size`, and the largest relative distance from it."""
    count = len(points)
    mean_size = sum(point.size for point in points) / count
    mean_seconds = sum(point.seconds for point in points) / count
    slope = sum((p.size - mean_size) * (p.seconds - mean_seconds) for p in points) / sum(
        (p.size - mean_size) ** 2 for p in points
    )
    fixed = mean_seconds - slope * mean_size
    return fixed, slope, max(abs(fixed + slope * p.size - p.seconds) / p.seconds for p in points)


def exponent(peaks: Mapping[int, int | None]) -> float | None:
    """`e` of `memory ~ depth ** e`, by least squares of the logarithms."""
    known = [(math.log(depth), math.log(peak)) for depth, peak in peaks.items() if peak]
    if len(known) < 2:
        return None
    mean_x, mean_y = (sum(column) / len(known) for column in zip(*known))
    return sum((x - mean_x) * (y - mean_y) for x, y in known) / sum((x - mean_x) ** 2 for x, _ in known)


def markdown(
    points: Mapping[str, Sequence[Point]],
    peaks: Mapping[str, Mapping[int, int | None]],
    setting: Mapping[str, object],
) -> str:
    lines = ["# How the cost of an explanation grows", ""]
    for name, series in points.items():
        fixed, slope, distance = line(series)
        lines += [
            f"## Time against {name}",
            "",
            "| size | relprop | gradient x input | ratio | relprop per unit of size |",
            "| --- | --- | --- | --- | --- |",
        ]
        for p in series:
            cells = [
                duration(p.seconds),
                duration(p.unit),
                f"{p.seconds / p.unit:.2f}",
                duration(p.seconds / p.size),
            ]
            lines.append(f"| {p.size} | {' | '.join(cells)} |")
        lines += [
            "",
            f"Straight line: {fixed * 1e3:.3g} ms + {slope * 1e6:.3g} µs per unit; no point is further than "
            f"{distance:.0%} from it.",
            "",
        ]
    depths = list(next(iter(peaks.values())))
    lines += [
        "## Peak memory against depth (EpsilonPlus; checkpointed in sqrt(depth) segments), MiB",
        "",
        f"| depth | {' | '.join(map(str, depths))} | grows as depth to the power |",
        "| --- " * (len(depths) + 2) + "|",
    ]
    for label, found in peaks.items():
        cells = ["fails" if peak is None else f"{peak / 2**20:.1f}" for peak in found.values()]
        power = exponent(found)
        lines.append(f"| {label} | {' | '.join(cells)} | {'' if power is None else f'{power:.2f}'} |")
    lines += ["", f"Measured with {', '.join(f'{key} {value}' for key, value in setting.items())}.", ""]
    return "\n".join(lines)
