"""The command: see `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import memory, profiling, scaling, table, timing
from benchmarks.cases import CASES, Case
from benchmarks.contenders import CONTENDERS, UNIT
from benchmarks.contenders.own import CONTENDER as OWN
from benchmarks.machine import describe, versions
from benchmarks.worker import CLOCKS, Job

RESULTS = Path(__file__).parent / "results"
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "float16": torch.float16}
SMALLEST = "mlp"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("--case", action="append", choices=list(CASES), help="only this case (repeatable)")
    parser.add_argument("--preset", action="append", help="only this rule set (repeatable)")
    parser.add_argument("--contenders", help="comma-separated; gradient x input always takes part")
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds after warm-up (default 9)")
    parser.add_argument("--warmup", type=int, default=2, help="rounds before them (default 2)")
    parser.add_argument("--threads", type=int, default=2, help="torch's threads (default 2)")
    parser.add_argument(
        "--clock",
        default="wall",
        choices=list(CLOCKS),
        help="cpu: processor time instead, for a machine on which other processes run (with --threads 1)",
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=list(DTYPES))
    parser.add_argument("--only", choices=["time", "memory"], help="measure one of the two")
    parser.add_argument("--out", type=Path, help="folder for the results (default: benchmarks/results)")
    parser.add_argument("--label", help="keep the results beside the others under this name, say 'before'")
    parser.add_argument("--smoke", action="store_true", help="the smallest case, to see that all of it works")
    parser.add_argument("--scaling", action="store_true", help="cost against batch, pixels and depth")
    parser.add_argument("--profile", action="store_true", help="operators by time, and what would wait for a device")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    warnings.simplefilter("ignore")  # those of the peers would hide the table
    if options.device == "cuda" and not torch.cuda.is_available():
        print("there is no CUDA device here", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    if options.smoke:
        options.case, options.rounds, options.warmup = [SMALLEST], min(options.rounds, 3), 1
    cases = [case for case in CASES.values() if case.name in (options.case or CASES) and options.device in case.devices]
    if options.scaling:
        return scaling.main(
            options.device, DTYPES[options.dtype], options.threads, options.rounds, options.out or RESULTS
        )
    if options.profile:
        return profiling.main(cases, options.preset, options.device, DTYPES[options.dtype], options.threads)
    return compare(cases, options)


def compare(cases: Sequence[Case], options: argparse.Namespace) -> int:
    """Measure, print the table, and keep it if it is complete or a folder was named."""
    wanted = options.contenders.split(",") if options.contenders else list(CONTENDERS)
    unknown = [name for name in wanted if name not in CONTENDERS]
    if unknown:
        print(f"no contender {', '.join(unknown)}; there are: {', '.join(CONTENDERS)}", file=sys.stderr)
        return 2
    names = [name for name in CONTENDERS if name in wanted or name == UNIT.name]

    folder, stem = options.out or RESULTS, f"{options.device}-{options.dtype}"
    if options.clock != "wall":
        stem += f"-{options.clock}-time"
    if options.label:
        stem += f"-{options.label}"
    keep = options.out is not None or (not options.smoke and not options.contenders and not options.only)
    measured: list[table.Block] = []
    for case in cases:
        for preset in case.presets:
            if options.preset and preset not in options.preset:
                continue
            measured.append(measure(case, preset, names, options))
            if keep:  # after every block, so that a run that is stopped keeps what it has
                table.write(table.merge(table.read(folder / f"{stem}.json"), measured), folder, stem)
    print(table.markdown(measured))
    own = [row for block in measured for row in block.rows if row.contender == OWN.name]
    return 0 if all(row.status == "measured" for row in own) else 1


def measure(case: Case, preset: str, names: Sequence[str], options: argparse.Namespace) -> table.Block:
    first = Job(
        build=case.build,
        preset=preset,
        contender=UNIT.name,
        device=options.device,
        dtype=DTYPES[options.dtype],
        threads=options.threads,
        repeats=case.repeats if not options.smoke else max(1, case.repeats // 10),
        clock=options.clock,
    )
    jobs = [replace(first, contender=name) for name in names]
    block = table.Block(
        case.name,
        preset,
        describe(torch.device(options.device), first.dtype, options.threads, options.clock),
        versions(CONTENDERS[name] for name in names),
        options.rounds,
    )

    def report(text: str) -> None:
        print(f"{case.name}, {preset}: {text}", file=sys.stderr, flush=True)

    if options.only != "memory":
        reference = None
        if options.device != "cpu" and "cpu" in case.devices:
            reference = replace(first, contender=OWN.name, device="cpu", dtype=torch.float32)
        for found in timing.measure(jobs, options.rounds, options.warmup, report, reference):
            row = table.Row(found.contender, found.status, found.median, ratio=found.ratio, difference=found.difference)
            if found.seconds:
                row.fastest, row.slowest = min(found.seconds), max(found.seconds)
            block.rows.append(row)
    else:
        block.rows = [table.Row(name, "measured") for name in names]
    if options.only != "time":
        for row, job in zip(block.rows, jobs):
            if row.status == "measured":
                report(f"{row.contender}: memory")
                row.peak = memory.peak(job)
        unit = block.rows[names.index(UNIT.name)].peak
        for row in block.rows:
            row.peak_ratio = row.peak / unit if row.peak and unit else None
    report("; ".join(f"{row.contender} {table.summary(row)}" for row in block.rows))
    return block


if __name__ == "__main__":
    sys.exit(main())
