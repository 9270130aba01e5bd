"""Contrasts: the relevance that each output starts with, and two explanations beside each other."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from relprop.concepts import SGLRP, Difference, LogRatio, SoftmaxContrast, clrp
from relprop.concepts.contrast import ClassContrast, NegatedWeights, OtherClasses
from relprop.numerics import nonzero
from tests.support.compare import assert_close
from tests.support.networks import residual_net, unet

Z = torch.tensor([[2.0, -1.0, 0.5, 0.25], [0.3, 1.2, -2.0, 0.7]], dtype=torch.float64)


class Outputs(nn.Module):
    """The identity as a linear map: the relevance at the input is that at the output."""

    def __init__(self, head: nn.Module | None = None) -> None:
        super().__init__()
        self.head = head or nn.Identity()

    def forward(self, z: Tensor) -> Tensor:
        return self.head(z @ torch.eye(z.shape[-1], dtype=z.dtype))


def seeded(target: Any, z: Tensor = Z) -> tuple[Tensor, rp.Audit]:
    e = rp.LRP(Outputs(), rp.Zero()).explain(z, target=target)
    return e.relevance, e.audit


# -- known answers, by hand --------------------------------------------------------------------------------------------


def test_difference() -> None:
    found, audit = seeded(Difference(0, 2))
    assert_close(found, torch.tensor([[2.0, 0, -0.5, 0], [0.3, 0, 2.0, 0]], dtype=torch.float64), 1e-12)
    assert audit.seed == pytest.approx(1.5 + 2.3)


def test_the_other_is_the_runner_up() -> None:
    found, _ = seeded(Difference())
    assert_close(found, torch.tensor([[2.0, 0, -0.5, 0], [0, 1.2, 0, -0.7]], dtype=torch.float64), 1e-12)


def test_log_ratio() -> None:
    z = torch.tensor([[4.0, 2.0, 1.0], [-1.0, -3.0, 5.0]], dtype=torch.float64)
    found, audit = seeded(LogRatio(0, 1), z)
    assert_close(found, torch.tensor([[1.0, -1, 0], [1, -1, 0]], dtype=torch.float64), 1e-12)
    assert abs(audit.seed) < 1e-12 and audit.balanced


def test_softmax_contrast_sums_to_the_mean_lead() -> None:
    found, audit = seeded(SoftmaxContrast(0))
    expected = torch.zeros_like(Z)
    lead = 0.0
    for i, row in enumerate(Z.tolist()):
        odds = [math.exp(v) for v in row[1:]]
        weights = [0.0, *(o / sum(odds) for o in odds)]
        for n, value in enumerate(row):
            expected[i, n] = value if n == 0 else -weights[n] * value
            lead += weights[n] * (row[0] - value)
    assert_close(found, expected, 1e-12)
    assert audit.seed == pytest.approx(lead, abs=1e-12)


def test_softmax_contrast_is_the_gradient_of_the_log_odds() -> None:
    z = Z.clone().requires_grad_()
    p = z.softmax(1)[:, 1]
    (g,) = torch.autograd.grad((p / (1 - p)).log().sum(), z)
    assert_close(SoftmaxContrast(1).gradient(Z), g, 1e-10)
    # with two classes it is their difference
    assert_close(SoftmaxContrast(1).gradient(Z[:, :2]), Difference(1, 0).gradient(Z[:, :2]), 1e-12)


def test_softmax_gradient_is_that_of_the_probability() -> None:
    found, audit = seeded(SGLRP(1))
    z = Z.clone().requires_grad_()
    (g,) = torch.autograd.grad(z.softmax(1)[:, 1].sum(), z)
    assert_close(found, g, 1e-10)
    zero = torch.zeros(1, 3, dtype=torch.float64)
    share = SGLRP(0).gradient(zero) * nonzero(zero)  # an output of zero starts with relevance too
    assert_close(share, torch.tensor([[2.0, -1, -1]], dtype=torch.float64) / 9, 1e-12)
    assert abs(audit.seed) < 1e-12 and audit.balanced


def test_softmax_gradient_where_the_network_is_certain() -> None:
    z = torch.tensor([[40.0, 0.5, -1.0]], dtype=torch.float64)
    found, _ = seeded(SGLRP(0), z)
    assert found[0, 0] > 0 and found[0, 0] == pytest.approx(-float(found[0, 1:].sum()), rel=1e-12)


def test_dual_of_clrp() -> None:
    uniform, _ = seeded(OtherClasses(0))
    third = torch.tensor([[0, 2.0, 2, 2], [0, 0.3, 0.3, 0.3]], dtype=torch.float64) / 3
    assert_close(uniform, third, 1e-12)
    logits, _ = seeded(OtherClasses(0, "logits"))
    assert_close(logits, torch.tensor([[0, 1.0, 0.5, 0.25], [0, 1.2, 2.0, 0.7]], dtype=torch.float64), 1e-12)


class Shared(nn.Module):
    """Two classes of features x: z_0 = relu(x_0) + relu(x_1), z_1 = relu(x_1) + relu(x_2). What they share is x_1."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(3, 2, bias=False).double()
        with torch.no_grad():
            self.out.weight.copy_(torch.tensor([[1.0, 1, 0], [0, 1, 1]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(x))


X = torch.tensor([[3.0, 4.0, 1.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Difference(0, 1), [3, 0, -1]),  # x_1 speaks for both alike
        (SoftmaxContrast(0), [3, 0, -1]),  # of two classes: the difference
        (LogRatio(0, 1), [3 / 7, 4 / 7 - 4 / 5, -1 / 5]),  # z = (7, 5)
    ],
    ids=["difference", "softmax contrast", "log ratio"],
)
def test_what_is_shared_cancels(target: ClassContrast, expected: list[float]) -> None:
    e = rp.LRP(Shared(), rp.Zero()).explain(X, target=target)
    assert_close(e.relevance, torch.tensor([expected], dtype=torch.float64), 1e-10)
    assert e.audit.balanced and e.audit.seed == pytest.approx(sum(expected))


def test_softmax_gradient_through_a_layer() -> None:
    e = rp.LRP(Shared(), rp.Zero()).explain(X, target=SGLRP(0))
    p = torch.sigmoid(torch.tensor(2.0, dtype=torch.float64))
    r = float(p * (1 - p))  # z = (7, 5): R = r at output 0, -r at output 1
    expected = [r * 3 / 7, r * (4 / 7 - 4 / 5), -r / 5]
    assert_close(e.relevance, torch.tensor([expected], dtype=torch.float64), 1e-10)


def test_relevance_on_an_output_that_cancels_to_zero() -> None:
    """z = (4, 3 - 3): output 1 starts with -p_0 p_1 all the same, and z+ gives it to x_0, its one positive part."""
    model = nn.Linear(3, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 0, 4], [1, -1, 0]]))
    x = torch.tensor([[3.0, 3.0, 1.0]], dtype=torch.float64)
    e = rp.LRP(model, rp.ZPlus(epsilon=0.0)).explain(x, target=SGLRP(0))
    r = float(torch.sigmoid(torch.tensor(4.0, dtype=torch.float64)) * torch.sigmoid(torch.tensor(-4.0).double()))
    assert_close(e.relevance, torch.tensor([[-r, 0, r]], dtype=torch.float64), 1e-9)
    assert e.audit.balanced


def test_clrp_by_hand() -> None:
    """R / sum R = (3, 4, 0) / 7; the other class's (0, 4, 1) / 5."""
    lrp = rp.LRP(Shared(), rp.ZPlus())
    signed = torch.tensor([[3 / 7, 4 / 7 - 4 / 5, -1 / 5]], dtype=torch.float64)
    for dual in ("uniform", "logits"):
        found = clrp(lrp, X, target=0, dual=dual, clip=False)  # type: ignore[arg-type]
        assert_close(found.relevance, signed, 1e-6)
        assert_close(clrp(lrp, X, target=0, dual=dual).relevance, signed.clamp(min=0), 1e-6)  # type: ignore[arg-type]


def test_clrp_with_negated_weights_by_hand() -> None:
    model = Shared()
    with torch.no_grad():
        model.out.weight.copy_(torch.tensor([[1.0, -2, -1], [0, 1, 1]]))
    x = torch.tensor([[9.0, 1.0, 2.0]], dtype=torch.float64)  # z_0 = 9 - 2 - 2 = 5
    found = clrp(rp.LRP(model, rp.ZPlus()), x, target=0, dual="negated", clip=False)
    assert_close(found.target.relevance, torch.tensor([[5.0, 0, 0]], dtype=torch.float64), 1e-6)
    assert_close(found.dual.relevance, torch.tensor([[0, 2.5, 2.5]], dtype=torch.float64), 1e-6)
    assert_close(found.relevance, torch.tensor([[1, -0.5, -0.5]], dtype=torch.float64), 1e-6)


def test_negated_weights_on_inputs_of_both_signs() -> None:
    """R_j = sum_k (a_j w_jk)- / sum_j (a_j w_jk)- R_k; the books hold what no input speaks against."""
    model = nn.Linear(6, 4).double()
    with torch.no_grad():
        model.weight[3] = 0
    x, r = torch.randn(3, 6, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    share = (x[:, None] * model.weight.detach()).clamp(max=0)
    total = share.sum(-1, keepdim=True)
    expected = (share / torch.where(total < 0, total, 1.0) * r[:, :, None]).sum(1)
    e = rp.LRP(model, NegatedWeights()).explain(x, target=r)
    assert_close(e.relevance, expected, 1e-10)
    assert e.audit.excess == pytest.approx(r[:, 3].sum().item()) and e.audit.balanced


def test_clrp_against_the_steps_written_out() -> None:
    """z+ layers without bias, as in the paper: |R| down, each normalised, subtracted."""
    torch.manual_seed(1)
    weights = [torch.randn(7, 6).double(), torch.randn(4, 7).double()]
    model = nn.Sequential(nn.Linear(6, 7, bias=False), nn.ReLU(), nn.Linear(7, 4, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(weights[0])
        model[2].weight.copy_(weights[1])
    x = torch.rand(3, 6, dtype=torch.float64)
    hidden = torch.relu(x @ weights[0].T)
    out = hidden @ weights[1].T
    targets = out.argmax(1)

    def down(r: Tensor, a: Tensor, w: Tensor) -> Tensor:
        shares = (a[:, None, :] * w[None]).clamp(min=0)
        total = shares.sum(-1, keepdim=True)
        return (shares / torch.where(total > 0, total, 1.0) * r[:, :, None]).sum(1)

    mask = torch.nn.functional.one_hot(targets, 4).bool()
    value = out[mask].abs()[:, None]
    duals = {"uniform": torch.where(mask, 0.0, value / 3), "logits": torch.where(mask, 0.0, out.abs())}
    own = torch.where(mask, out.abs(), 0.0)
    for dual in ("uniform", "logits", "negated"):
        top = down(own, hidden, -weights[1]) if dual == "negated" else down(duals[dual], hidden, weights[1])
        r, s = down(down(own, hidden, weights[1]), x, weights[0]), down(top, x, weights[0])
        expected = (r / r.sum(1, keepdim=True) - s / s.sum(1, keepdim=True)).clamp(min=0)
        found = clrp(rp.LRP(model, rp.ZPlus(epsilon=0.0)), x, target=targets, dual=dual)  # type: ignore[arg-type]
        assert_close(found.relevance, expected, 1e-9, dual)


# -- any model, any output ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", [rp.Zero(), rp.EpsilonPlus(), rp.EpsilonPlusFlat()], ids=str)
def test_a_contrast_is_the_sum_of_its_outputs(preset: Any) -> None:
    model, x = residual_net(), torch.randn(3, 3, 8, 8, dtype=torch.float64)
    lrp = rp.LRP(model, preset)
    one, other = lrp.explain(x, targets=[2, 4])
    assert_close(lrp.explain(x, target=Difference(2, 4)).relevance, one.relevance - other.relevance, 1e-9)
    by_output = [lrp.explain(x, target=n, seed="one").relevance for n in range(5)]
    share = SGLRP(1).gradient(model(x).detach()) * model(x).detach()
    expected = sum(share[:, n].view(3, 1, 1, 1) * by_output[n] for n in range(5))
    found = lrp.explain(x, target=SGLRP(1))
    assert_close(found.relevance, expected, 1e-9)
    assert found.audit.balanced


def test_batch_is_single_items_and_each_has_its_class() -> None:
    model, x = residual_net(), torch.randn(3, 3, 8, 8, dtype=torch.float64)
    lrp, classes = rp.LRP(model, rp.EpsilonPlus()), [4, 0, 1]
    whole = lrp.explain(x, target=SoftmaxContrast(torch.tensor(classes))).relevance
    for i, c in enumerate(classes):
        assert_close(whole[i : i + 1], lrp.explain(x[i : i + 1], target=SoftmaxContrast(c)).relevance, 1e-9)
    assert_close(whole, lrp.explain(x, target=SoftmaxContrast(classes)).relevance, 1e-12)


@pytest.mark.parametrize("head", [nn.Softmax(-1), nn.LogSoftmax(-1)], ids=["softmax", "log softmax"])
def test_a_final_softmax_is_looked_through(head: nn.Module) -> None:
    e = rp.LRP(Outputs(head), rp.Zero()).explain(Z, target=SGLRP(1))
    assert_close(e.relevance, seeded(SGLRP(1))[0], 1e-10)


def test_places_of_a_segmentation() -> None:
    model, x = unet(), torch.randn(2, 2, 8, 8, dtype=torch.float64)
    lrp = rp.LRP(model, rp.EpsilonPlus())
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[2:4, 3:6] = True
    found = lrp.explain(x, target=Difference(1, 0, at=inside)).relevance
    expected = lrp.explain(x, target=lambda out: (out[:, 1] - out[:, 0])[:, inside].sum(1)).relevance
    assert_close(found, expected, 1e-8)
    every = lrp.explain(x, target=Difference(1, 0, at=...)).relevance
    slices = lrp.explain(x, target=Difference(1, 0, at=(slice(None), slice(None)))).relevance
    assert_close(every, slices, 1e-12)


def test_the_last_token() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5)).double()
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    lrp = rp.LRP(model, rp.Zero())
    found = lrp.explain(x, target=SoftmaxContrast(3, dim=-1, at=-1)).relevance
    alone = lrp.explain(x[:, -1], target=SoftmaxContrast(3)).relevance
    assert_close(found[:, -1], alone, 1e-10)
    assert not found[:, :-1].any()


def test_a_language_model_says_this_rather_than_that() -> None:
    pytest.importorskip("transformers", reason="language models come from transformers")
    from tests.text import tiny

    model, ids = tiny.gpt2().double(), torch.tensor([[5, 9, 2, 7]])
    lrp = rp.LRP(model, rp.AttnLRP())
    found = lrp.explain(ids, target=Difference(11, 3, dim=-1, at=-1))
    expected = lrp.explain(ids, target=lambda out: out.logits[:, -1, 11] - out.logits[:, -1, 3])
    assert_close(found.relevance, expected.relevance, 1e-9)
    logits = model(ids).logits.detach()
    assert found.audit.seed == pytest.approx((logits[0, -1, 11] - logits[0, -1, 3]).item())


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Difference(0, 9), "other 9 is out of range: the output has 4 classes"),
        (Difference(7), "target 7 is out of range"),
        (Difference(1, 1), "the same class, 1"),
        (SoftmaxContrast(torch.tensor([1, 2, 3])), "one for each of the 2 samples"),
        (SoftmaxContrast(torch.tensor([0.5, 1.0])), "must hold indices of classes, got torch.float32"),
        (SGLRP("cat"), "must be an index"),  # type: ignore[arg-type]
        (SGLRP(0, dim=2), "dim=2"),
        (LogRatio(0, 1), "must be positive, got 2 over -1.*Difference"),
    ],
    ids=str,
)
def test_bad_contrasts(target: Any, message: str) -> None:
    with pytest.raises(rp.InputError, match=message):
        seeded(target)


def test_where_must_be_said() -> None:
    z = torch.randn(2, 3, 4, dtype=torch.float64)
    with pytest.raises(rp.InputError, match=r"say where with at=: -1 for the last token"):
        seeded(Difference(0, dim=-1), z)
    with pytest.raises(rp.InputError, match="does not index the places"):
        seeded(Difference(0, dim=-1, at=5), z)
    with pytest.raises(rp.InputError, match="a mask of places must have shape"):
        seeded(Difference(0, dim=-1, at=torch.ones(4, dtype=torch.bool)), z)
    with pytest.raises(rp.InputError, match="at least two classes"):
        seeded(Difference(0), torch.randn(2, 1, dtype=torch.float64))


def test_a_contrast_takes_no_other_seed() -> None:
    with pytest.raises(rp.InputError, match="leave seed out"):
        rp.LRP(Outputs(), rp.Zero()).explain(Z, target=Difference(0), seed="one")


def test_clrp_refuses() -> None:
    lrp = rp.LRP(Shared(), rp.ZPlus())
    with pytest.raises(rp.InputError, match='dual must be "uniform"'):
        clrp(lrp, X, target=0, dual="all")  # type: ignore[arg-type]
    with pytest.raises(rp.InputError, match="takes no targets or a list of conditions"):
        clrp(lrp, X, targets=[0, 1], conditions=[{"out": 0}])
    with pytest.raises(rp.InputError, match="the dual's relevance of sample 0 sums to 0"):
        clrp(lrp, X, target=0, dual="negated")  # no weight speaks against
