"""Experts as concepts: modules of their own, or parts of one tensor in the three ways transformers runs them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from relprop.concepts import CRP
from relprop.concepts.experts import expert_conditions
from tests.support.compare import assert_close
from tests.support.state import assert_same_state, snapshot

transformers = pytest.importorskip("transformers")


class Expert(nn.Module):
    def __init__(self, up: Tensor, down: Tensor) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(up), nn.Parameter(down)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = nn.functional.linear(x, self.up).chunk(2, -1)
        return nn.functional.linear(nn.functional.silu(gate) * up, self.down)


class Listed(nn.Module):
    """The mixture as older models write it: each expert a module, run on the tokens that are routed to it."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.gate = block.gate
        pairs = zip(block.experts.gate_up_proj, block.experts.down_proj, strict=True)
        self.experts = nn.ModuleList(Expert(up.detach().clone(), down.detach().clone()) for up, down in pairs)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        _, weights, index = self.gate(flat)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            token, rank = torch.where(index == e)
            if len(token):
                out.index_add_(0, token, expert(flat[token]) * weights[token, rank, None])
        return out.reshape(x.shape)


class Net(nn.Module):
    """[N, T, 8] -> [N, 3], with a way around the mixture."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.first, self.mlp, self.head = nn.Linear(8, 8), block, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.head((h + self.mlp(h)).mean(1))


def block(how: str) -> nn.Module:
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    torch.manual_seed(4)
    config = transformers.MixtralConfig(
        hidden_size=8, intermediate_size=8, num_local_experts=5, num_experts_per_tok=2,
        experts_implementation="eager" if how == "modules" else how,
    )  # fmt: skip
    made = MixtralSparseMoeBlock(config)
    for p in made.parameters():
        nn.init.normal_(p, 0, 0.5)
    return Listed(made) if how == "modules" else made


def network(how: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor]:
    mixture = block(how)
    torch.manual_seed(7)
    return Net(mixture).to(dtype).eval(), torch.randn(2, 4, 8, dtype=dtype)


def by_autograd(model: Net, x: Tensor, expert: int) -> Tensor:
    """Gradient x input of a form in which all that the rules hold constant is detached: the router, half of every
    product, the factor of the activation, the other experts, and the way around."""
    x = x.clone().requires_grad_()
    h = model.first(x)
    flat = h.reshape(-1, 8)
    _, weights, index = model.mlp.gate(flat)
    out = torch.zeros_like(flat)
    for e, module in enumerate(model.mlp.experts):
        gate, up = nn.functional.linear(flat, module.up).chunk(2, -1)
        a = gate * (nn.functional.silu(gate) / gate).detach()
        z = nn.functional.linear((a * up.detach() + a.detach() * up) / 2, module.down)
        share = (weights * (index == e)).sum(1, keepdim=True).detach()
        out = out + (z if e == expert else z.detach()) * share
    y = model.head((h.detach() + out.reshape(h.shape)).mean(1))
    assert_close(y.detach(), model(x).detach(), 1e-9)
    return x.detach() * torch.autograd.grad(y[:, 1].sum(), x)[0]


@pytest.mark.parametrize("how", ["modules", "eager"])
def test_relevance_through_an_expert(how: str) -> None:
    (model, x), (listed, _) = network(how, torch.float64), network("modules", torch.float64)
    lrp = rp.LRP(model, rp.AttnLRP(epsilon=0.0))
    before = snapshot(model)
    found = expert_conditions(lrp, "mlp.experts", x)
    assert len(found) > 2
    explained = CRP(lrp).explain(x, conditions=list(found.values()), target=1)
    assert_same_state(before, snapshot(model))
    for e, explanation in zip(found, explained, strict=True):
        assert_close(explanation.relevance, by_autograd(listed, x, e), 1e-9, f"expert {e}")


@pytest.mark.parametrize("how", ["eager", "grouped_mm", "batched_mm"])
def test_parts_of_one_tensor_are_as_modules(how: str) -> None:
    (model, x), (listed, _) = network(how), network("modules")
    lrp, plain = rp.LRP(model, rp.AttnLRP()), rp.LRP(listed, rp.AttnLRP())
    found, modules = expert_conditions(lrp, "mlp.experts", x), expert_conditions(plain, "mlp.experts", x)
    assert list(found) == list(modules)
    mine = CRP(lrp).explain(x, conditions=list(found.values()), target=1)
    theirs = CRP(plain).explain(x, conditions=list(modules.values()), target=1)
    assert modules == {e: {f"mlp.experts.{e}": modules[e][f"mlp.experts.{e}"]} for e in modules}
    assert_close(mine.relevance, theirs.relevance, 1e-4)


def test_experts_that_no_token_goes_to_have_no_condition() -> None:
    for how in ("modules", "eager", "grouped_mm", "batched_mm"):
        model, x = network(how)
        index = model.mlp.gate(model.first(x[:1, :1]).reshape(-1, 8))[2]
        found = expert_conditions(rp.LRP(model, rp.AttnLRP()), "mlp.experts", x[:1, :1])
        assert list(found) == sorted(index[0].tolist())


def test_without_the_way_around_all_experts_are_the_mixture() -> None:
    model, x = network("eager", torch.float64)
    lrp = rp.LRP(model, rp.AttnLRP(epsilon=0.0))
    found = CRP(lrp).explain(x, conditions=list(expert_conditions(lrp, "mlp.experts", x).values()), target=1)
    whole = lrp.explain(x, conditions={"mlp": [*range(8)]}, target=1)
    assert_close(found.relevance.sum(0), whole.relevance, 1e-9)


def test_what_holds_no_experts() -> None:
    model, x = network("eager")
    lrp = rp.LRP(model, rp.AttnLRP())
    with pytest.raises(rp.InputError, match="no experts are seen in 'first'"):
        expert_conditions(lrp, "first", x)
    with pytest.raises(rp.InputError, match="nearest names: mlp.experts"):
        expert_conditions(lrp, "mlp.expert", x)
    with pytest.raises(rp.InputError, match="name the one module that holds them, got 'mlp"):
        expert_conditions(lrp, "mlp.*", x)
