"""Results: what was measured, kept as JSON and shown as Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.cases import CASES
from benchmarks.contenders import CONTENDERS, UNIT

_TITLE = "relprop beside gradient x input and other libraries"


@dataclass
class Row:
    """One contender on one case and preset: seconds of a call, bytes at its peak, both also in units."""

    contender: str
    status: str
    seconds: float | None = None
    fastest: float | None = None
    slowest: float | None = None
    ratio: float | None = None
    difference: float | None = None
    peak: int | None = None
    peak_ratio: float | None = None


@dataclass
class Block:
    """All contenders of one case and preset, measured in one run."""

    case: str
    preset: str
    machine: dict[str, object]
    versions: dict[str, str]
    rounds: int
    rows: list[Row] = field(default_factory=list)

    def row(self, contender: str) -> Row | None:
        return next((row for row in self.rows if row.contender == contender), None)


def read(path: Path) -> list[Block]:
    """Blocks kept earlier; none where the file does not exist."""
    if not path.exists():
        return []
    blocks = json.loads(path.read_text())["blocks"]
    return [Block(**{**block, "rows": [Row(**row) for row in block["rows"]]}) for block in blocks]


def merge(kept: Iterable[Block], measured: Iterable[Block]) -> list[Block]:
    """What was measured replaces what was kept of the same case and preset, in the order of the cases."""
    blocks = {(block.case, block.preset): block for block in [*kept, *measured]}
    order = [(case.name, preset) for case in CASES.values() for preset in case.presets]
    return [blocks[key] for key in order if key in blocks]


def write(blocks: Sequence[Block], folder: Path, stem: str) -> None:
    """Write `stem.json` and `stem.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"title": _TITLE, "blocks": [_rounded(asdict(block)) for block in blocks]}, indent=1)
    (folder / f"{stem}.json").write_text(text + "\n")
    (folder / f"{stem}.md").write_text(markdown(blocks))


def markdown(blocks: Sequence[Block]) -> str:
    """A table of times, of memory and of differences for each case."""
    lines = [
        f"# {_TITLE}",
        "",
        "Times are multiples of gradient x input's of the same model on the same input: medians over the",
        "rounds, with all contenders in turn. Its own column has its absolute time. Peak memory is what one",
        "call adds to the resident set of a fresh process (on a GPU, to the device's memory), likewise.",
        "The difference is |R - R_relprop| / |R_relprop|: where it is large the other library computes",
        "something else, be it another convention or a part of the model that it does not see. relprop's own, on",
        "a GPU, is its distance from the same on a CPU in float32.",
        "A dash: the library has no such rule set.",
    ]
    for name in dict.fromkeys(block.case for block in blocks):
        group = [block for block in blocks if block.case == name]
        lines += [
            "",
            f"## {CASES[name].title}",
            "",
            *_times(group),
            "",
            *_memory(group),
            "",
            *_differences(group),
        ]
        lines += _failures(group)
    lines += ["", "## Measured with", ""]
    for setting in dict.fromkeys(_setting(block) for block in blocks):
        cases = dict.fromkeys(block.case for block in blocks if _setting(block) == setting)
        lines.append(f"- {', '.join(cases)}: {setting}")
    return "\n".join(lines) + "\n"


def _names(group: Sequence[Block]) -> list[str]:
    present = {row.contender for block in group for row in block.rows}
    return [name for name in CONTENDERS if name in present]


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    rows = [head, ["---"] * len(head), *body]
    return ["| " + " | ".join(row) + " |" for row in rows]


def _times(group: Sequence[Block]) -> list[str]:
    names = _names(group)
    body = []
    for block in group:
        cells = []
        for name in names:
            row = block.row(name)
            if name == UNIT.name and row is not None and row.seconds is not None:
                cells.append(duration(row.seconds))
            else:
                cells.append(_cell(row, None if row is None else row.ratio, ".2f"))
        goal = CASES[block.case].goals[block.preset].time
        body.append([block.preset, *cells, "" if goal is None else f"{goal:g}"])
    return _table(["time", *names, "goal"], body)


def _memory(group: Sequence[Block]) -> list[str]:
    if not any(row.peak for block in group for row in block.rows):
        return ["(memory not measured)"]
    names = _names(group)
    body = []
    for block in group:
        cells = []
        for name in names:
            row = block.row(name)
            if name == UNIT.name and row is not None and row.peak is not None:
                cells.append(f"{row.peak / 2**20:.0f} MiB")
            else:
                cells.append(_cell(row, None if row is None else row.peak_ratio, ".2f"))
        goal = CASES[block.case].goals[block.preset].memory
        body.append([block.preset, *cells, "" if goal is None else f"{goal:g}"])
    return _table(["peak memory", *names, "goal"], body)


def _differences(group: Sequence[Block]) -> list[str]:
    names = [
        name
        for name in _names(group)
        if any(row and row.difference is not None for row in (block.row(name) for block in group))
    ]
    if not names:
        return []
    body = []
    for block in group:
        rows = [block.row(name) for name in names]
        cells = [_cell(row, None if row is None else row.difference, ".1e") for row in rows]
        body.append([block.preset, *cells])
    return _table(["difference", *names], body)


def _failures(group: Sequence[Block]) -> list[str]:
    found = dict.fromkeys(
        f"- {row.contender}, {block.preset}: {row.status.removeprefix('fails: ')}"
        for block in group
        for row in block.rows
        if row.status.startswith("fails")
    )
    return ["", *found] if found else []


def _cell(row: Row | None, value: float | None, form: str) -> str:
    if row is None or row.status == "not offered":
        return "-"
    if row.status.startswith("fails"):
        return "fails"
    if row.status != "measured":
        return row.status
    return "" if value is None else "not finite" if math.isnan(value) else format(value, form)


def summary(row: Row) -> str:
    """One row in a few words, to be printed as it comes."""
    if row.status != "measured":
        return row.status
    words = [] if row.ratio is None or row.seconds is None else [f"{row.ratio:.2f} ({duration(row.seconds)})"]
    if row.peak_ratio is not None:
        words.append(f"memory {row.peak_ratio:.2f}")
    return ", ".join(words)


def duration(seconds: float) -> str:
    return (
        f"{seconds * 1e6:.0f} µs"
        if seconds < 1e-3
        else f"{seconds * 1e3:.3g} ms"
        if seconds < 1
        else f"{seconds:.3g} s"
    )


def _setting(block: Block) -> str:
    facts = dict(block.machine)
    first = [str(facts.pop("processor")), f"{facts.pop('cores')} cores", f"{facts.pop('threads')} threads"]
    others = [str(value) for value in facts.values()]
    versions = [f"{name} {version}" for name, version in block.versions.items()]
    return "; ".join([", ".join(first + others), ", ".join(versions), f"{block.rounds} rounds"])


def _rounded(value: object) -> object:
    """Four significant digits: more would only make two runs look different."""
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return value
