"""Nothing between the model's input and the audit waits for a device: shown without one, by the operations called."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from benchmarks.profiling import Waits, waits
from benchmarks.worker import Job

import relprop as rp
from benchmarks import cases, presets

SMALL = {
    "perceptron": (cases.perceptron, presets.CONVOLUTIONAL[:2]),
    "residual network": (partial(cases.vision, name="resnet18", batch=1, size=32), presets.CONVOLUTIONAL),
    "vision transformer": (cases.tiny_vit, (presets.ATTENTION, presets.VALUES_ONLY, presets.ATTENTION_GAMMA)),
    "language model": (
        partial(cases.llama, tokens=8, shape=cases.TINY_LLAMA),
        (presets.ATTENTION, presets.ATTENTION_GAMMA),
    ),
}


@pytest.mark.parametrize(("name", "preset"), [(n, p) for n, (_, ps) in SMALL.items() for p in ps])
def test_only_the_audit_waits(name: str, preset: str) -> None:
    job = Job(SMALL[name][0], preset, "relprop", threads=1)
    call = job.start()
    call()
    lines = waits(job, call)[1:]
    models = [line for line in lines if "recorder.py" in line and "__torch_function__" in line]  # its own, run as it is
    assert len(models) <= (name == "language model"), lines
    assert [line for line in lines if line not in models and "numerics.py" not in line] == []
    assert len(lines) > len(models), "the audit reads its sums"


def test_a_wait_is_seen() -> None:
    class Reads(rp.Rule):
        home = ("linear",)

        def linear(self, op: object, a: torch.Tensor, z: torch.Tensor, g: torch.Tensor, books: object) -> torch.Tensor:
            return g.new_full(a.shape, float(g.sum()))

    model = torch.nn.Linear(3, 2).eval()
    with Waits() as seen, pytest.raises(rp.AuditError):
        rp.LRP(model, Reads()).explain(torch.randn(2, 3), target=0)
    assert any("test_waits.py" in line for line in seen.found)
