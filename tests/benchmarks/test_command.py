"""The benchmark command works, end to end, on its smallest case. No time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks.__main__ import SMALLEST
from benchmarks.cases import CASES, Case
from benchmarks.contenders import CONTENDERS, UNIT, Contender
from benchmarks.contenders.base import Call
from benchmarks.scaling import Point, exponent, line
from benchmarks.table import Block, Row, markdown, merge, read, write
from benchmarks.timing import measure, relative_difference
from benchmarks.worker import Job

ROOT = Path(__file__).parents[2]


def test_smallest_case_runs_and_is_kept(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--smoke", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr + done.stdout

    (block,) = json.loads((tmp_path / "cpu-float32.json").read_text())["blocks"]
    assert block["case"] == SMALLEST
    rows = {row["contender"]: row for row in block["rows"]}
    assert list(rows) == list(CONTENDERS)
    for name in (UNIT.name, "relprop"):
        assert rows[name]["status"] == "measured"
        assert rows[name]["fastest"] <= rows[name]["seconds"] <= rows[name]["slowest"]
        assert rows[name]["peak"] is not None
    assert rows[UNIT.name]["ratio"] == 1
    for name, row in rows.items():  # a peer is measured, absent, or has no such rules: none fails on an MLP
        assert row["status"] in ("measured", "not installed", "not offered"), (name, row["status"])
        if name in ("zennit", "captum") and row["status"] == "measured":
            assert row["difference"] < 1e-3  # they computed the same thing: the comparison is fair
    assert "MLP" in (tmp_path / "cpu-float32.md").read_text()


@pytest.mark.parametrize("case", [case for case in CASES.values() if "cpu" in case.devices], ids=lambda c: c.name)
def test_every_preset_of_a_case_has_a_goal_and_a_unit(case: Case) -> None:
    assert case.presets
    assert case.repeats >= 1


def test_contenders_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []

    def contender(name: str, value: float, fails_at: int | None = None) -> Contender:
        def prepare(problem: object, preset: str) -> Call:
            def call() -> torch.Tensor:
                turns.append(name)
                if fails_at is not None and turns.count(name) > fails_at:
                    raise ValueError("as planted")
                return torch.full((2,), value)

            return call

        return Contender(name, prepare)

    field = {c.name: c for c in (contender(UNIT.name, 1.0), contender("relprop", 2.0), contender("x", 3.0, 2))}
    for name, entry in field.items():
        monkeypatch.setitem(CONTENDERS, name, entry)
    case = CASES[SMALLEST]
    found = measure([Job(case.build, case.presets[0], name) for name in field], rounds=2, warmup=1)
    a, b, c = field
    assert turns == [a, b, c, a, b, c, a, b, c, a, b]
    unit, own, failing = found
    assert len(unit.seconds) == len(own.seconds) == 2
    assert unit.ratio == 1
    assert failing.status == "fails: ValueError: as planted" and failing.median is None


def test_difference_is_relative_to_the_second() -> None:
    assert relative_difference(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 0.0])) == pytest.approx(4 / 3)
    assert relative_difference(torch.ones(2), torch.ones(3)) != relative_difference(torch.ones(2), torch.ones(3))


def test_results_are_kept_by_case_and_preset(tmp_path: Path) -> None:
    def block(preset: str, ratio: float) -> Block:
        machine: dict[str, object] = {"processor": "p", "cores": 2, "threads": 1}
        return Block("vgg16", preset, machine, {"torch": "2"}, 7, [Row("relprop", "measured", ratio=ratio)])

    write(merge([], [block("EpsilonPlus", 1.5), block("UniformEpsilon", 1.25)]), tmp_path, "kept")
    merged = merge(read(tmp_path / "kept.json"), [block("EpsilonPlus", 1.75)])
    assert [(b.preset, b.rows[0].ratio) for b in merged] == [("UniformEpsilon", 1.25), ("EpsilonPlus", 1.75)]
    text = markdown(merged)
    assert "| EpsilonPlus | 1.75 | 1.55 |" in text


def test_straight_line_and_power() -> None:
    points = [Point(size, 0.5 + 2.0 * size, 1.0) for size in (1, 2, 4)]
    assert line(points) == pytest.approx((0.5, 2.0, 0.0))
    assert exponent({4: 20, 16: 40, 64: 80}) == pytest.approx(0.5)
