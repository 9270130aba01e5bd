"""Scores of units, which are smallest, and masks that take them out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from relprop.concepts import least, prune_units, unit_relevance
from relprop.units import Directions, Heads
from tests.support.compare import assert_close
from tests.support.networks import residual_net

F64 = torch.float64


def small() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(80, 3)
    ).double().eval()  # fmt: skip


def batches(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(4, 1, 8, 8, dtype=F64), torch.randint(0, 3, (4,))) for _ in range(count)]


@pytest.mark.parametrize("reduce", ["abs", "sum"])
def test_scores_against_the_layers_written_out(reduce: Any) -> None:
    """LRP-0 of a ReLU network: R = z dz_t/dz at each layer, one sample after the other."""
    model, data = small(), batches()
    found = unit_relevance(rp.LRP(model, rp.Zero()), data, ["1", "4"], reduce=reduce)
    for path in ("1", "4"):
        cut = int(path) + 1
        expected = 0
        for x, y in data:
            for i in range(len(x)):
                z = model[:cut](x[i : i + 1]).detach().requires_grad_()
                (g,) = torch.autograd.grad(model[cut:](z)[0, y[i]], z)
                r = (z * g)[0].flatten(1)
                expected = expected + (r.abs() if reduce == "abs" else r).sum(1).detach()
        assert_close(found[path], expected, 1e-9)


def test_what_is_explained() -> None:
    model, data = small(), batches(1)
    lrp, (x, y) = rp.LRP(model, rp.EpsilonPlus()), data[0]
    predicted = model(x).argmax(1)
    for target, labels in (("label", y), ("predicted", predicted), (1, torch.ones_like(y))):
        expected = lrp.explain(x, target=labels, layers="2").layers["2"].abs().sum((0, 2, 3))
        assert_close(unit_relevance(lrp, data, "2", target=target)["2"], expected, 1e-10)
    assert_close(
        unit_relevance(lrp, [x], "2", target="predicted")["2"], unit_relevance(lrp, [(x, predicted)], "2")["2"]
    )


def test_layers_of_one_chain_share_the_same_output() -> None:
    """Without biases each layer's signed scores sum to the explained values."""
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 7, bias=False), nn.ReLU(),
                          nn.Linear(7, 3, bias=False)).double()  # fmt: skip
    x, y = torch.randn(5, 6, dtype=F64), torch.randint(0, 3, (5,))
    found = unit_relevance(rp.LRP(model, rp.Zero()), [(x, y)], list("01234"), reduce="sum")
    value = model(x)[torch.arange(5), y].sum().item()
    assert list(found) == ["0", "1", "2", "3", "4"]
    assert all(s.sum().item() == pytest.approx(value, abs=1e-10) for s in found.values())


class Attention(nn.Module):
    """Four heads whose outputs stand beside each other before the projection."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.Linear(6, 8)
        self.project = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(torch.relu(self.heads(x))).mean(1)


def test_heads_where_the_projection_reads_them() -> None:
    torch.manual_seed(0)
    model, x = Attention().double(), torch.randn(2, 5, 6, dtype=F64)
    lrp = rp.LRP(model, rp.Zero())
    each = unit_relevance(lrp, [x], "project:in", target=0)["project:in"]
    heads = unit_relevance(lrp, [x], "project:in", target=0, units=Heads(of=4))
    hidden = torch.relu(model.heads(x))
    expected = (hidden * model.project.weight[0] / 5).abs().sum((0, 1)).detach()
    assert_close(each, expected, 1e-10)
    assert_close(heads["project:in"], expected.view(4, 2).sum(1), 1e-10)
    weakest = least(heads, 1)
    gone = int(weakest["project:in"])
    pruned = prune_units(copy.deepcopy(model), weakest, groups={"*:in": 4})
    with torch.no_grad():
        model.project.weight[:, 2 * gone : 2 * gone + 2] = 0
    assert_close(pruned(x).detach(), model(x).detach(), 1e-12)


# -- which -------------------------------------------------------------------------------------------------------------

SCORES = {"a": torch.tensor([4.0, 1.0, 3.0, 2.0]), "b": torch.tensor([10.0, 20.0, 70.0, 0.0])}


def chosen(**options: Any) -> dict[str, list[int]]:
    return {path: units.tolist() for path, units in least(SCORES, **options).items()}


def test_the_smallest() -> None:
    # shares: a 0.4 0.1 0.3 0.2, b 0.1 0.2 0.7 0
    assert chosen(amount=3) == {"a": [1], "b": [0, 3]}
    assert chosen(amount=0.25) == {"a": [1], "b": [3]}
    assert chosen(amount=4, normalise="none") == {"a": [1, 2, 3], "b": [3]}  # keep=1: the fourth of a stays
    assert chosen(amount=0.5, across="each") == {"a": [1, 3], "b": [0, 3]}
    assert chosen(amount=4, across="each") == {"a": [1, 2, 3], "b": [0, 1, 3]}
    assert chosen(amount=0) == {"a": [], "b": []}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amount": 9}, "a number up to 8"),
        ({"amount": 1.5}, "share below 1"),
        ({"amount": -1}, "amount must be"),
        ({"amount": 7}, "1 units too many: with keep=1 there are only 6"),
        ({"amount": 1, "across": "net"}, "across must be"),
        ({"amount": 1, "normalise": "max"}, "normalise must be"),
        ({"amount": 1, "keep": -1}, "keep must be"),
    ],
    ids=str,
)
def test_bad_amounts(options: dict[str, Any], message: str) -> None:
    with pytest.raises(rp.InputError, match=message):
        least(SCORES, **options)


# -- masks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv2d(3, 6, 3), (2, 3, 5, 5)),
        (nn.Conv2d(4, 8, 3, groups=2), (2, 4, 5, 5)),
        (nn.ConvTranspose2d(3, 6, 3), (2, 3, 5, 5)),
        (nn.Linear(3, 6), (2, 3)),
        (nn.BatchNorm2d(6).eval(), (2, 6, 5, 5)),
        (nn.LayerNorm(6), (2, 6)),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "",
)
def test_a_masked_unit_gives_zero_and_the_others_what_they_gave(module: nn.Module, shape: tuple[int, ...]) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    x = torch.randn(shape)
    whole = module(x).detach()
    model = prune_units(nn.Sequential(copy.deepcopy(module)), {"0": torch.tensor([1, -2])})
    found = model(x).detach()
    gone = [1, whole.shape[1] - 2]
    kept = [i for i in range(whole.shape[1]) if i not in gone]
    assert not found[:, gone].any()
    assert_close(found[:, kept], whole[:, kept], 1e-5)


def test_a_masked_unit_has_no_relevance() -> None:
    model, data = small(), batches(1)
    prune_units(model, {"0": [2], "3": [0, 4]})
    found = unit_relevance(rp.LRP(model, rp.EpsilonPlus()), data, ["1", "4"])
    assert found["1"][2] == 0 and not found["4"][[0, 4]].any()
    assert (found["1"] > 0).sum() == 3


def test_masks_add_up() -> None:
    model = small()
    prune_units(model, {"0": [2]})
    prune_units(model, {"0": [1]})
    assert not model(torch.randn(1, 1, 8, 8, dtype=F64)).isnan().any()
    assert (model[0].weight_mask.flatten(1).sum(1) > 0).tolist() == [True, False, False, True]


def test_by_relevance_is_better_than_by_weight_where_a_unit_is_never_used() -> None:
    """A unit with large weights whose ReLU never opens: magnitude keeps it, relevance finds it."""
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    with torch.no_grad():
        model[0].weight[1] *= 10
        model[0].bias[1] = -1000.0
        model[0].bias[[0, 2]] = 3.0
    x = torch.randn(6, 4, dtype=F64)
    scores = unit_relevance(rp.LRP(model, rp.Epsilon(1e-6)), [x], "1", target="predicted")
    assert least(scores, 1)["1"].tolist() == [1]
    assert int(model[0].weight.norm(dim=1).argmax()) == 1
    before = model(x).detach()
    assert_close(prune_units(model, {"0": least(scores, 1)["1"]})(x).detach(), before, 1e-12)


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_bad_data() -> None:
    lrp, data = rp.LRP(small(), rp.Zero()), batches(1)
    with pytest.raises(rp.InputError, match="holds no labels"):
        unit_relevance(lrp, [data[0][0]], "0")
    with pytest.raises(rp.InputError, match="there is no data"):
        unit_relevance(lrp, [], "0")
    with pytest.raises(rp.InputError, match='target must be "label", "predicted"'):
        unit_relevance(lrp, data, "0", target="true")
    with pytest.raises(rp.InputError, match="is named 'conv'"):
        unit_relevance(lrp, data, "conv")
    with pytest.raises(rp.InputError, match="at '0': the last dimension of .* does not divide into 5 heads"):
        unit_relevance(lrp, data, "0", units=Heads(of=5))
    with pytest.raises(rp.InputError, match="directions are not parts of a layer"):
        unit_relevance(lrp, data, "0", units=Directions(torch.eye(4)))
    with pytest.raises(rp.InputError, match="reduce must be"):
        unit_relevance(lrp, data, "0", reduce="max")  # type: ignore[arg-type]
    with pytest.raises(rp.InputError, match="got 3 parts"):
        unit_relevance(lrp, [(1, 2, 3)], "0")


def test_layers_that_no_relevance_reaches() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        model[2].weight.zero_()
    with pytest.raises(rp.InputError, match="no relevance reaches 0, 1"):
        unit_relevance(rp.LRP(model, rp.Zero()), [torch.randn(2, 3, dtype=F64)], ["0", "1"], target=0)


@pytest.mark.parametrize(
    ("units", "options", "message"),
    [
        ({"stm": [0]}, {}, "no module is named 'stm'; nearest names: stem"),
        ({"blocks": [0]}, {}, "a Sequential without weights"),
        ({"stem": [4]}, {}, r"stem has 4 units; asked for were \[4\]"),
        ({"blocks.0.norm1:in": [0]}, {}, "BatchNorm2d reads every unit by itself"),
        ({"stem": [0]}, {"groups": {"*": 3}}, "cannot be cut into 3 equal groups"),
    ],
    ids=str,
)
def test_bad_units(units: Any, options: dict[str, Any], message: str) -> None:
    model = residual_net()
    with pytest.raises(rp.InputError, match=message):
        prune_units(model, {"head": [0], **units}, **options)
    assert not hasattr(model.head, "weight_mask"), "nothing is masked unless everything fits"
