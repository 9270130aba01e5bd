"""What is explained: every form of target and seed says the same thing in its own way."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from tests.support.compare import assert_close
from tests.support.networks import residual_net, two_towers, unet

PRESET = rp.EpsilonPlus()


def picture() -> Tensor:
    return torch.randn(3, 3, 8, 8, dtype=torch.float64)


def one_hot(output: Tensor, classes: list[int]) -> Tensor:
    chosen = torch.zeros_like(output)
    for row, index in enumerate(classes):
        chosen[row, index] = output[row, index]
    return chosen


FORMS: dict[str, Any] = {
    "int": 2,
    "negative int": -3,
    "0-d tensor": torch.tensor(2),
    "tensor": torch.tensor([2, 2, 2]),
    "list": [2, 2, 2],
    "tuple": (2,),
    "callable": lambda output: output[:, 2],
    "callable that sums": lambda output: output[:, 2].sum(),
    "mask": torch.arange(5).expand(3, 5) == 2,
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_one_target(form: str) -> None:
    model, x = residual_net(), picture()
    lrp, output = rp.LRP(model, PRESET), model(x).detach()
    expected = lrp.explain(x, target=one_hot(output, [2, 2, 2])).relevance
    assert_close(lrp.explain(x, target=FORMS[form]).relevance, expected, 1e-9)


def test_a_target_for_each_sample() -> None:
    model, x = residual_net(), picture()
    lrp, output = rp.LRP(model, PRESET), model(x).detach()
    expected = lrp.explain(x, target=one_hot(output, [4, 0, 1])).relevance
    assert_close(lrp.explain(x, target=torch.tensor([4, 0, 1])).relevance, expected, 1e-9)


def test_no_target_is_the_largest_output() -> None:
    model, x = residual_net(), picture()
    lrp, output = rp.LRP(model, PRESET), model(x).detach()
    found = lrp.explain(x)
    assert_close(found.relevance, lrp.explain(x, target=output.argmax(1)).relevance, 1e-12)
    assert found.target.tolist() == output.argmax(1).tolist()


def test_several_targets_at_once() -> None:
    model, x = residual_net(), picture()
    lrp = rp.LRP(model, PRESET)
    for found, target in zip(lrp.explain(x, targets=[0, 3, torch.tensor([1, 2, 3])]), [0, 3, torch.tensor([1, 2, 3])]):
        assert_close(found.relevance, lrp.explain(x, target=target).relevance, 1e-12)


@pytest.mark.parametrize("preset", [rp.Zero(), rp.EpsilonPlus(), rp.EpsilonPlusFlat()], ids=str)
def test_seeds(preset: Any) -> None:
    """`one` is `value` divided by the value, and a tensor says it outright."""
    model, x = residual_net(), picture()
    lrp, output = rp.LRP(model, preset), model(x).detach()
    value, one = (lrp.explain(x, target=2, seed=seed) for seed in ("value", "one"))
    scale = output[:, 2].view(3, 1, 1, 1)
    assert_close(one.relevance, value.relevance / scale, 1e-9)
    given = lrp.explain(x, target=2, seed=torch.full((3,), 4.0, dtype=torch.float64))
    assert_close(given.relevance, 4 * one.relevance, 1e-9)
    assert one.audit.seed == pytest.approx(3)
    assert value.audit.seed == pytest.approx(float(output[:, 2].sum()))


def test_seed_one_of_a_mask_is_for_the_whole() -> None:
    model, x = unet(), torch.randn(2, 2, 8, 8, dtype=torch.float64)
    lrp, output = rp.LRP(model, PRESET), model(x).detach()
    mask = torch.zeros_like(output, dtype=torch.bool)
    mask[:, 0, 1:4, 2:6] = True
    value, one = (lrp.explain(x, target=mask, seed=seed).relevance for seed in ("value", "one"))
    total = torch.where(mask, output, 0.0).sum((1, 2, 3)).view(2, 1, 1, 1)
    assert_close(one, value / total, 1e-9)


@pytest.mark.parametrize("head", [nn.Softmax(-1), nn.LogSoftmax(-1), nn.Sigmoid(), nn.LogSigmoid()], ids=repr)
def test_final_softmax_is_stepped_over(head: nn.Module) -> None:
    """The logit is explained, and the plan says so."""
    model, x = residual_net(), picture()
    plain = rp.LRP(model, PRESET).explain(x, target=1)
    found = rp.LRP(nn.Sequential(model, head), PRESET).explain(x, target=1)
    assert_close(found.relevance, plain.relevance, 1e-12)
    assert torch.equal(found.output, head(plain.output))
    assert "logit" in str(found.plan)


class Named(NamedTuple):
    features: Tensor
    logits: Tensor


class Nested(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.net, self.form = residual_net(), form

    def forward(self, batch: dict[str, Any]) -> Any:
        x = batch["picture"][0]
        logits = self.net(x)
        return {
            "dict": {"logits": logits, "aux": 0 * logits},
            "tuple": (logits, 0 * logits),
            "named": Named(x, logits),
            "nested": {"a": [x, {"b": (logits,)}]},
        }[self.form]


@pytest.mark.parametrize(
    ("form", "target"),
    [
        ("dict", 2),
        ("dict", lambda o: o["logits"][:, 2]),
        ("tuple", 2),
        ("named", lambda o: o.logits[:, 2]),
        ("nested", lambda o: o["a"][1]["b"][0][:, 2]),
    ],
)
def test_nested_inputs_and_outputs(form: str, target: Any) -> None:
    """Inputs and outputs may be nested; outputs come back as they are, without a graph."""
    model, x = Nested(form), picture()
    expected = rp.LRP(model.net, PRESET).explain(x, target=2).relevance
    found = rp.LRP(model, PRESET).explain({"picture": [x]}, target=target)
    assert type(found.output) is type(model({"picture": [x]}))
    relevance = found.relevance
    while not isinstance(relevance, Tensor):
        relevance = next(iter(relevance.values())) if isinstance(relevance, dict) else relevance[0]
    assert_close(relevance, expected, 1e-12)


def test_keywords_and_wrt() -> None:
    """`wrt` says what is returned and changes no value; keyword inputs come back by name."""
    model, x, row = two_towers(), picture(), torch.randn(3, 4, dtype=torch.float64)
    lrp = rp.LRP(model, PRESET)
    first, second = lrp.explain(x, row, target=0).relevance
    assert torch.equal(lrp.explain(x, row, target=0, wrt=0).relevance, first)
    assert torch.equal(lrp.explain(x, row, target=0, wrt=1).relevance, second)
    by_name = lrp.explain(picture=x, row=row, target=0).relevance
    assert torch.equal(by_name["picture"], first) and torch.equal(by_name["row"], second)
    assert torch.equal(lrp.explain(x, row=row, target=0, wrt="row").relevance, second)
    with pytest.raises(rp.RelpropError, match="wrt.*column"):
        lrp.explain(x, row=row, target=0, wrt="column")


def test_audit_by_formula() -> None:
    """z = W a + b with epsilon: the bias takes sum b / s(z) R, the stabiliser sum (s(z) - z) / s(z) R."""
    layer = nn.Linear(4, 3).double()
    a, r = torch.randn(2, 4, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    z = layer(a).detach()
    s = z + 0.1 * z.sign()
    books = rp.LRP(layer, rp.Epsilon(0.1)).explain(a, target=r).audit
    assert books.seed == pytest.approx(float(r.sum()))
    assert books.bias == pytest.approx(float((layer.bias.detach() / s * r).sum()))
    assert books.epsilon == pytest.approx(float(((s - z) / s * r).sum()))
    assert sum(books.inputs.values()) == pytest.approx(float((((z - layer.bias.detach()) / s) * r).sum()))
    assert books.unexplained == pytest.approx(0, abs=1e-12)


def test_audit_of_an_empty_branch() -> None:
    """All contributions positive: alpha 2, beta 1 gives 2 where 1 came in, and the books say so."""
    layer = nn.Linear(3, 2, bias=False).double()
    with torch.no_grad():
        layer.weight.abs_()
    a, r = torch.rand(1, 3, dtype=torch.float64) + 0.1, torch.rand(1, 2, dtype=torch.float64)
    found = rp.LRP(layer, rp.AlphaBeta(2, 1)).explain(a, target=r)
    assert float(found.relevance.sum()) == pytest.approx(2 * float(r.sum()), rel=1e-5)
    assert found.audit.excess == pytest.approx(-float(r.sum()), rel=1e-5)


def test_numpy_numbers_and_arrays_are_targets() -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(4, 3).double(), torch.randn(2, 4, dtype=torch.float64)
    lrp = rp.LRP(model)
    for given, same in ((np.int64(2), 2), (np.array([0, 2]), torch.tensor([0, 2])), (np.array(1), 1)):
        assert torch.equal(lrp.explain(x, target=given).relevance, lrp.explain(x, target=same).relevance)
    mask = np.array([[True, False, True], [False, True, False]])
    assert torch.equal(lrp.explain(x, target=mask).relevance, lrp.explain(x, target=torch.from_numpy(mask)).relevance)


def test_a_target_that_cancels_is_explained_by_nothing() -> None:
    """The sum of a normalised vector is zero whatever comes in: rounding is no imbalance of the books."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 64), nn.LayerNorm(64, elementwise_affine=False)).double()
    x = torch.randn(2, 6, dtype=torch.float64)
    e = rp.LRP(model).explain(x, target=lambda y: y.sum(1))
    assert e.audit.balanced and e.audit.scale > 1 and e.relevance.abs().max() < 1e-12
    assert "%" in str(e.audit) and "e+" not in str(e.audit).split("NOT")[0]


def test_the_books_of_all_sites_add_up_to_those_of_the_call() -> None:
    model, x = residual_net(), picture()
    e = rp.LRP(model, rp.EpsilonPlus()).explain(x, target=1, audit="sites")
    for entry in ("bias", "epsilon", "excess"):
        assert sum(b.get(entry, 0.0) for b in e.audit.books.values()) == pytest.approx(
            getattr(e.audit, entry), rel=1e-9
        )
    conv = next(s for s in e.plan.sites if s.label == "stem.conv2d")
    assert e.audit.books[conv.index]["bias"] != 0
