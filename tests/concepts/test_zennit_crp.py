"""Conditional relevance of small CNNs equals zennit-crp's: maps, layers, parallel branches excluded or not.

What is done about known differences:
- zennit's modules are edited (canonizers) and hooked, so it gets a copy of the model;
- zennit needs a module for residual sums and stabilises them, this library does neither: stabilisers are tiny;
- zennit merges a batch norm and leaves an identity that still has its eps: that eps is taken away;
- zennit-crp sums its map over the input's channels, and its gradient is the relevance;
- where parallel branches are excluded, its gradients at a masked place add up the backward that comes and the one that
  goes on: twice the relevance. Its maps do not;
- it propagates masked places in the order in which a condition names them: here from the output down.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zennit import composites as zennit_composites
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.layer import Sum

import relprop as rp
from relprop.concepts import CRP, TopN
from tests.support.compare import assert_close
from tests.support.networks import ready

attribution = pytest.importorskip("crp.attribution", reason="zennit-crp is installed by `make test`")
concepts = pytest.importorskip("crp.concepts", reason="zennit-crp is installed by `make test`")

EPS = 1e-12
WHERE = ["conv1", "relu1", "conv2", "relu2", "conv3", "relu3"]


class Plain(nn.Module):
    """Three convolutions, the second with a batch norm, one after the other."""

    def __init__(self, shortcut: bool = False) -> None:
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()
        self.conv2, self.norm, self.relu2 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()
        self.conv3, self.relu3 = nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()
        self.sum = Sum()
        self.head, self.shortcut = nn.Linear(6 * 16, 5), shortcut

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu1(self.conv1(x))
        h = nn.functional.max_pool2d(h, 2)
        z = self.norm(self.conv2(h))
        h = self.relu2(self.sum(torch.stack([z, h], -1)) if self.shortcut else z)
        return self.head(self.relu3(self.conv3(h)).flatten(1))


RULES: dict[str, tuple[Any, Any]] = {
    "EpsilonPlus": (
        rp.EpsilonPlus(epsilon=EPS, stabiliser=EPS),
        lambda **k: zennit_composites.EpsilonPlus(epsilon=EPS, stabilizer=EPS, **k),
    ),
    "EpsilonPlusFlat": (
        rp.EpsilonPlusFlat(epsilon=EPS, stabiliser=EPS),
        lambda **k: zennit_composites.EpsilonPlusFlat(epsilon=EPS, stabilizer=EPS, **k),
    ),
    "EpsilonAlpha2Beta1": (
        rp.EpsilonAlpha2Beta1(epsilon=EPS, stabiliser=EPS),
        lambda **k: zennit_composites.EpsilonAlpha2Beta1(epsilon=EPS, stabilizer=EPS, **k),
    ),
}


class Merged(SequentialMergeBatchNorm):
    """zennit's merge of batch norms, without the eps that it leaves in the identity."""

    def register(self, linears: Any, batch_norm: Any) -> None:
        super().register(linears, batch_norm)
        batch_norm.eps = 0.0


def by_zennit(model: nn.Module, rule: str, x: Tensor, conditions: list[dict[str, Any]], exclude: bool) -> Any:
    model, x = copy.deepcopy(model), x.clone().requires_grad_()
    composite = RULES[rule][1](canonizers=[Merged()])
    asked = [{k: [v] if isinstance(v, int) else v for k, v in c.items()} for c in conditions]
    return attribution.CondAttribution(model)(x, asked, composite, record_layer=list(WHERE), exclude_parallel=exclude)


def network(shortcut: bool) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(3)
    model = ready(Plain(shortcut))
    model.norm.eps = 1e-5
    return model, torch.randn(1, 3, 8, 8, dtype=torch.float64)


CONDITIONS: list[list[dict[str, Any]]] = [
    [{"relu2": i, "y": 2} for i in range(6)],
    [{"conv3": [0, 3], "y": 1}, {"conv3": 2, "y": 1}],
    [{"relu3": 1, "relu1": 4, "y": 0}, {"relu3": [0, 2], "relu1": [0, 1, 2], "y": 4}],
    [{"y": 3}],
]


@pytest.mark.filterwarnings("ignore:no relevance:relprop.RelpropWarning")
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("exclude", [True, False])
@pytest.mark.parametrize("shortcut", [True, False])
@pytest.mark.parametrize("conditions", CONDITIONS, ids=lambda c: "+".join(c[0]))
def test_conditional_relevance(rule: str, exclude: bool, shortcut: bool, conditions: list[dict[str, Any]]) -> None:
    model, x = network(shortcut)
    theirs = by_zennit(model, rule, x, conditions, exclude)
    found = CRP(rp.LRP(model, RULES[rule][0])).explain(x, conditions=conditions, layers=WHERE, exclude_parallel=exclude)
    assert_close(found.relevance.sum(2)[:, 0], theirs.heatmap, 1e-8, "maps")
    for name in found[0].layers:
        twice = 2.0 if exclude and name in conditions[0] else 1.0
        assert_close(twice * torch.cat([e.layers[name] for e in found]), theirs.relevances[name], 1e-8, name)


def test_relevance_of_concepts_and_the_top_ones() -> None:
    model, x = network(shortcut=True)
    theirs = by_zennit(model, "EpsilonPlusFlat", x, [{"y": 2}], exclude=True)
    by_channel = concepts.ChannelConcept().attribute(theirs.relevances["relu2"], abs_norm=False)
    crp = CRP(rp.LRP(model, RULES["EpsilonPlusFlat"][0]))
    assert_close(crp.relevance(x, layer="relu2", target=2), by_channel, 1e-8)
    order = by_channel.argsort(descending=True)[0, :3].tolist()
    found = crp.explain(x, conditions={"relu2": TopN(3)}, target=2)
    assert [c["relu2"].index[0] for c in found.conditions] == order
