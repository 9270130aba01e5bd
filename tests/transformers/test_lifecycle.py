"""Nothing of a transformer changes, also when a call in its middle fails, and no thread disturbs another."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import relprop as rp
from tests.support.state import assert_same_state, snapshot
from tests.transformers.zoo_models import Case, make

pytest.importorskip("transformers", reason="the stock classes come from transformers")


class Fault(Exception):
    pass


class FailAt(TorchFunctionMode):
    """Raises at the k-th torch call that reaches torch itself."""

    def __init__(self, at: int | None) -> None:
        super().__init__()
        self.at, self.count = at, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        if self.count == self.at:
            raise Fault
        return func(*args, **(kwargs or {}))


def leaves(found: Any) -> list[Tensor]:
    if isinstance(found, Tensor):
        return [found]
    values = found.values() if isinstance(found, dict) else found
    return [t for value in values for t in leaves(value)]


def run(case: Case, preset: Callable[[], Any] = rp.AttnLRP) -> list[Tensor]:
    return leaves(rp.LRP(case.model, preset()).explain(target=case.target, **case.kwargs).relevance)


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_a_fault_at_any_call_changes_nothing(name: str) -> None:
    case = make(name)
    expected = run(case)
    before = snapshot(case.model)
    with FailAt(None) as count:
        run(case)
    assert count.count > 100
    step = max(1, count.count // 40)
    raised = 0
    for at in range(1, count.count + 1, step):
        with FailAt(at):
            try:
                run(case)
            except Fault:
                raised += 1
        assert_same_state(before, snapshot(case.model))
    assert raised > 30
    for first, second in zip(run(case), expected, strict=True):
        assert torch.equal(first, second)


def test_threads_on_one_model() -> None:
    """Several threads, presets and inputs at once: each gets what it gets alone; a plain forward too."""
    case = make("llama")
    other = make("llama")
    other.kwargs = {"input_ids": other.kwargs["input_ids"].flip(-1)}
    other.model = case.model
    jobs = [(case, rp.AttnLRP), (other, rp.CPLRP), (other, rp.AttnLRP)]
    expected = [run(*job) for job in jobs]
    plain = case.forward().logits
    wrong: list[str] = []

    def work(number: int) -> None:
        for _ in range(6):
            for first, second in zip(run(*jobs[number]), expected[number], strict=True):
                if not torch.equal(first, second):
                    wrong.append(f"job {number}")

    def forward() -> None:
        for _ in range(20):
            if not torch.equal(case.forward().logits, plain):
                wrong.append("plain forward")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(jobs))]
    threads.append(threading.Thread(target=forward))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_training_goes_on_afterwards() -> None:
    """An optimizer made before still trains the same parameters, and gradients are what they were."""
    case = make("bert")
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.1)
    run(case)
    assert all(p.grad is None for p in case.model.parameters())
    case.model(**case.kwargs).logits.sum().backward()
    weight = case.model.classifier.weight
    before = weight.detach().clone()
    gradient = weight.grad.clone()
    run(case)
    assert torch.equal(weight.grad, gradient)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), before - 0.1 * gradient)
