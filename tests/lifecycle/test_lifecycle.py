"""A model is left as it was found: after a call, after a call that failed, and for whoever uses it next."""

from __future__ import annotations

import copy
import gc
import subprocess
import sys
import threading
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import relprop as rp
from relprop.concepts import CRP
from relprop.tabular import Explainer
from tests.support.compare import assert_close
from tests.support.networks import gated_net, residual_net, two_towers, unet
from tests.support.presets import vision_presets
from tests.support.state import assert_same_state, snapshot

PRESETS = vision_presets(5.0) | {
    "flat in the middle": rp.Composite([(rp.Kind("conv"), rp.Flat())]),
}


def picture(channels: int = 3, count: int = 2) -> Tensor:
    return torch.randn(count, channels, 8, 8, dtype=torch.float64)


NETWORKS: dict[str, tuple[Any, Any, Any]] = {
    "residual": (residual_net, lambda: (picture(),), 2),
    "gated": (gated_net, lambda: (picture(),), torch.tensor([1, 3])),
    "unet": (unet, lambda: (picture(2),), lambda output: output[:, 1, 2, 3]),
    "two towers": (two_towers, lambda: (picture(), torch.randn(2, 4, dtype=torch.float64)), 0),
}
every_network = pytest.mark.parametrize("network", NETWORKS)
every_preset = pytest.mark.parametrize("preset", PRESETS)


def relevances(explanation: rp.Explanation) -> tuple[Tensor, ...]:
    found = explanation.relevance
    return found if isinstance(found, tuple) else (found,)


@every_network
@every_preset
def test_output_state_and_repetition(preset: str, network: str) -> None:
    make, inputs, target = NETWORKS[network]
    model, args = make(), inputs()
    plain, untouched, before = model(*args).detach(), [a.clone() for a in args], snapshot(model)
    lrp = rp.LRP(model, PRESETS[preset])
    first = lrp.explain(*args, target=target)
    assert torch.equal(first.output, plain)
    assert_same_state(before, snapshot(model))
    second, fresh = (
        lrp.explain(*args, target=target),
        rp.LRP(model, PRESETS[preset]).explain(*args, target=target),
    )
    for one, two, three in zip(relevances(first), relevances(second), relevances(fresh)):
        assert torch.equal(one, two)
        assert torch.equal(one, three)
    assert_same_state(before, snapshot(model))
    assert all(torch.equal(a, b) for a, b in zip(args, untouched)), "the input changed"
    assert all(a.grad is None and not a.requires_grad for a in args)
    assert torch.equal(model(*args), plain)


def test_parameters_in_every_state_are_left_alone() -> None:
    """Frozen, tied, with a gradient, with hooks of the user's own."""
    model = residual_net()
    model.blocks[1].conv2.weight = model.blocks[0].conv2.weight
    model.stem.weight.requires_grad_(False)
    model(picture()).sum().backward()
    seen: list[str] = []
    model.stem.register_forward_hook(lambda *_: seen.append("forward"))
    model.head.weight.register_hook(lambda g: seen.append("weight"))
    before, x = snapshot(model), picture()
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    rp.LRP(model, rp.EpsilonPlus()).explain(x, target=1)
    assert_same_state(before, snapshot(model))
    for parameter, grad in zip(model.parameters(), grads):
        assert (parameter.grad is None) == (grad is None)
        assert grad is None or torch.equal(parameter.grad, grad)
    assert "forward" in seen, "the user's own hooks still run"
    assert "weight" not in seen, "no gradient of a weight is formed"


def test_users_hook_takes_part() -> None:
    """A hook that changes an output is part of the model: what is explained is what the model computes."""
    model, x = residual_net(), picture()
    model.stem.register_forward_hook(lambda module, args, output: 2 * output)
    found = rp.LRP(model, rp.Zero()).explain(x, target=1)
    assert torch.equal(found.output, model(x))


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_callers_grad_mode(guard: Any) -> None:
    model, x = residual_net(), picture()
    expected = rp.LRP(model, rp.EpsilonPlus()).explain(x, target=1).relevance
    with guard():
        mode = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        given = x.clone()  # under inference mode an inference tensor
        found = rp.LRP(model, rp.EpsilonPlus()).explain(given, target=1).relevance
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == mode
    assert torch.equal(found, expected)


def test_input_that_asks_for_a_gradient() -> None:
    model, x = residual_net(), picture()
    expected = rp.LRP(model, rp.EpsilonPlus()).explain(x, target=1).relevance
    leaf = x.clone().requires_grad_()
    for given in (leaf, leaf * 1.0):
        found = rp.LRP(model, rp.EpsilonPlus()).explain(given, target=1)
        assert_close(found.relevance, expected, 1e-12)
        assert not found.relevance.requires_grad and not found.output.requires_grad
    assert leaf.grad is None


class ChangesItsInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        x.relu_()
        x += 1
        return self.layer(x)


def test_model_that_changes_its_input() -> None:
    """The caller's tensor is not the one the model changes, and relevance is that of the input as given."""
    model, x = ChangesItsInput(), torch.randn(2, 4, dtype=torch.float64)
    kept = x.clone()
    found = rp.LRP(model, rp.Zero()).explain(x, target=0)
    assert torch.equal(x, kept)
    weight = model.layer.weight[0].detach()
    assert_close(found.relevance, kept.relu() * weight, 1e-12)


# -- a call that fails --


class Raised(Exception):
    pass


class RaiseAt(TorchFunctionMode):
    """Counts the torch calls of a block, and raises instead of the one that is asked for."""

    def __init__(self, at: int | None = None) -> None:
        super().__init__()
        self.at, self.calls = at, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        if self.calls - 1 == self.at:
            raise Raised(f"call {self.at}: {getattr(func, '__name__', func)}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("preset", ["EpsilonPlus", "EpsilonGammaBox", "flat in the middle", "GuidedBackprop"])
@pytest.mark.parametrize("network", ["residual", "gated"])
def test_exception_at_any_torch_call(network: str, preset: str) -> None:
    make, inputs, target = NETWORKS[network]
    model, args = make(), inputs()
    lrp = rp.LRP(model, PRESETS[preset])
    expected = lrp.explain(*args, target=target).relevance
    before = snapshot(model)
    with RaiseAt() as counter:
        lrp.explain(*args, target=target)
    assert counter.calls > 20
    for at in range(0, counter.calls, 3):
        with pytest.raises(Exception) as error, RaiseAt(at):
            lrp.explain(*args, target=target)
        assert isinstance(error.value, Raised) or "call " in str(error.value) or error.value.__cause__ is not None
        assert_same_state(before, snapshot(model))
        if at % 5 == 0:
            assert torch.equal(lrp.explain(*args, target=target).relevance, expected), f"after a failure at {at}"
    assert torch.equal(lrp.explain(*args, target=target).relevance, expected)


class RaisesInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        raise Raised("in the backward")


class Fails(nn.Module):
    def __init__(self, where: str) -> None:
        super().__init__()
        self.inner, self.where = residual_net(), where

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x)
        if self.where == "forward":
            raise Raised("in the forward")
        return RaisesInBackward.apply(h) if self.where == "backward" else h


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_model_that_fails(where: str) -> None:
    model, x = Fails(where), picture()
    lrp, before = rp.LRP(model, rp.EpsilonPlus()), snapshot(model)
    for _ in range(2):
        with pytest.raises(Raised, match=where):
            lrp.explain(x, target=1, unknown="gradient")
        assert_same_state(before, snapshot(model))
    model.where = "nowhere"
    expected = rp.LRP(model.inner, rp.EpsilonPlus()).explain(x, target=1).relevance
    assert_close(lrp.explain(x, target=1).relevance, expected, 1e-12)


# -- what comes after --


def test_training_goes_on() -> None:
    """An optimizer's step after an explanation is the step it would have been without one."""
    model, x = residual_net(), picture()
    control = copy.deepcopy(model)
    lrp = rp.LRP(model, rp.EpsilonPlusFlat())
    for step in range(2):
        for net in (model, control):
            if net is model:
                explained = lrp.explain(x, target=1)
                assert_close(explained.output, control(x).detach(), 1e-12, "the weights of now are explained")
            optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
            net.train()
            net(x).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            net.eval()
        for (name, ours), theirs in zip(model.named_parameters(), control.parameters()):
            assert torch.equal(ours, theirs), f"{name} differs after step {step}"


def _in_threads(jobs: list[Any]) -> list[Any]:
    """The results of the jobs, each in a thread of its own, started together."""
    results: list[Any] = [None] * len(jobs)
    start = threading.Barrier(len(jobs))

    def work(i: int) -> None:
        start.wait()
        try:
            results[i] = jobs[i]()
        except BaseException as error:  # handed to the thread that checks
            results[i] = error

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


@pytest.mark.parametrize("shared", [True, False], ids=["one LRP object", "an LRP object each"])
def test_two_threads_on_one_model(shared: bool) -> None:
    model, x = residual_net(), picture()
    before = snapshot(model)
    presets = ["EpsilonPlus", "EpsilonPlus"] if shared else ["EpsilonPlusFlat", "EpsilonGammaBox"]
    lrps = [rp.LRP(model, PRESETS[name]) for name in presets]
    if shared:
        lrps[1] = lrps[0]
    expected = [[lrp.explain(x, target=t).relevance for t in range(5)] for lrp in lrps]

    def job(i: int) -> list[Tensor]:
        return [lrps[i].explain(x, target=t % 5).relevance for t in range(20)]

    for i, found in enumerate(_in_threads([lambda: job(0), lambda: job(1)])):
        for t, relevance in enumerate(found):
            assert torch.equal(relevance, expected[i][t % 5]), f"thread {i}, call {t}"
    assert_same_state(before, snapshot(model))


def test_another_thread_trains_meanwhile() -> None:
    """An explanation concerns its own thread alone: another's forward and backward are what they would be."""
    model, other, x = residual_net(), gated_net(), picture()
    control = copy.deepcopy(other)
    lrp = rp.LRP(model, rp.EpsilonPlus())
    expected = lrp.explain(x, target=1).relevance

    def train(net: nn.Module) -> None:
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        for _ in range(15):
            optimizer.zero_grad()
            net(x).square().sum().backward()
            optimizer.step()

    found = _in_threads([lambda: [lrp.explain(x, target=1).relevance for _ in range(15)], lambda: train(other)])[0]
    assert all(torch.equal(relevance, expected) for relevance in found)
    train(control)
    for ours, theirs in zip(other.parameters(), control.parameters()):
        assert torch.equal(ours, theirs)


# -- memory --


def _live_tensors(collect: bool = True) -> int:
    if collect:
        gc.collect()
    return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())


@every_preset
def test_nothing_is_kept(preset: str) -> None:
    model, x = residual_net(), picture()
    lrp = rp.LRP(model, PRESETS[preset])
    lrp.explain(x, target=1)  # what is remembered for a structure is remembered now
    before = _live_tensors()
    for _ in range(3):
        explanation = lrp.explain(x, target=1, layers=["stem"])
        assert explanation.relevance.grad_fn is None and explanation.output.grad_fn is None
        parts = [weakref.ref(t) for t in (explanation.relevance, explanation.output, explanation.layers["stem"])]
        del explanation
        gc.collect()
        assert all(part() is None for part in parts)
    assert _live_tensors() == before


def test_model_can_go() -> None:
    """An explanation does not keep its model alive."""
    model = residual_net()
    explanation = rp.LRP(model, rp.EpsilonPlus()).explain(picture(), target=1)
    gone = weakref.ref(model.stem.weight)
    del model
    gc.collect()
    assert gone() is None
    assert explanation.relevance.shape == (2, 3, 8, 8)


def test_call_without_a_cycle() -> None:
    """What a call made goes with the last reference to it, without waiting for the garbage collector."""
    model, x = residual_net(), picture()
    lrp = rp.LRP(model, rp.EpsilonPlus())
    lrp.explain(x, target=1)
    gc.collect()
    gc.disable()
    try:
        count = _live_tensors(collect=False)
        for _ in range(3):
            lrp.explain(x, target=1)
        assert _live_tensors(collect=False) == count
    finally:
        gc.enable()


PLACES: dict[str, dict[str, Any]] = {
    "layers": {"layers": ["stem", "blocks.*.norm1", "blocks.1.conv2:in"]},
    "weights": {"layers": ["stem.weight", "blocks.0.conv1.weight", "head.weight"]},
    "conditions": {"conditions": [{"stem": 1}, {"blocks.0": 2}]},
    "stop": {"stop_at": "blocks.0"},
    "start": {"start_at": "blocks.0", "target": (1, 1, 1)},
    "sites": {"audit": "sites", "layers": ["stem"]},
    "derivative": {"create_graph": True, "layers": ["stem"]},
}


@pytest.mark.filterwarnings("ignore:no relevance passes")  # where ReLUs are shut, which does not matter here
@every_preset
@pytest.mark.parametrize("kind", PLACES)
def test_places_without_a_cycle(preset: str, kind: str) -> None:
    """Places inside the model leave nothing for the collector either."""
    model, x = residual_net(), picture()
    lrp, asked = rp.LRP(model, PRESETS[preset]), {"target": 1, **PLACES[kind]}
    lrp.explain(x, **asked)
    gc.collect()
    gc.disable()
    try:
        count = _live_tensors(collect=False)
        explanation = lrp.explain(x, **asked)
        del explanation
        assert _live_tensors(collect=False) == count
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_the_compiler_is_not_imported() -> None:
    """torch imports its compiler at the first question for it, which takes seconds."""
    code = (
        "import sys, torch, relprop as rp\n"
        "rp.LRP(torch.nn.Linear(3, 2).eval()).explain(torch.rand(1, 3))\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_result_prints_no_tensors() -> None:
    model, x = residual_net(), picture()
    several = rp.LRP(model, rp.EpsilonPlus()).explain(x, targets=[1, torch.arange(len(x))])
    shape, each = tuple(x.shape), list(range(len(x)))
    assert repr(several[0]) == f"Explanation(target=1, EpsilonPlus(), relevance {shape})"
    assert repr(several[1]) == f"Explanation(target={each}, EpsilonPlus(), relevance {shape})"
    assert str(several[1]).startswith(f"Explanation of target {each} by EpsilonPlus()\nseed")
    row = torch.randn(len(x), 4, dtype=x.dtype)
    named = rp.LRP(two_towers(), rp.EpsilonPlus()).explain(picture=x, row=row, target=0)
    assert repr(named) == f"Explanation(target=0, EpsilonPlus(), relevance picture {shape}, row {tuple(row.shape)})"


def test_repr() -> None:
    lrp = rp.LRP(residual_net())
    assert repr(lrp) == f"LRP({type(lrp.model).__name__}, not chosen before the first call)"
    lrp.explain(picture(), target=1)
    assert repr(lrp) == f"LRP({type(lrp.model).__name__}, EpsilonPlus())"
    assert repr(CRP(lrp)) == f"CRP({lrp!r})"
    assert repr(Explainer(nn.Linear(2, 2))) == "Explainer of LRP(Linear, not chosen before the first call)"
