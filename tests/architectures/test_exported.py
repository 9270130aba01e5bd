"""Models from `torch.export`, which call torch's operators, and functions of torch that order arguments as these do."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop as rp
from tests.support.compare import assert_close


class Convolutional(nn.Module):
    """Norms of every kind, an activation in place, a sum in place, resizing and pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.batch = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.group, self.instance, self.read = nn.GroupNorm(2, 6), nn.InstanceNorm2d(6, affine=True), nn.Linear(6, 3)
        for norm in (self.batch, self.group, self.instance):
            nn.init.uniform_(norm.weight, 0.5, 2.0)
            nn.init.normal_(norm.bias)
        nn.init.normal_(self.batch.running_mean)
        nn.init.uniform_(self.batch.running_var, 0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        h = F.gelu(self.group(F.max_pool2d(self.batch(self.first(x)), 2, padding=1)))
        h = F.relu_(self.instance(h))
        h += h.mean((2, 3), keepdim=True)
        h = F.interpolate(h, scale_factor=2.0, mode="nearest")
        return self.read(F.adaptive_avg_pool2d(h, 1).flatten(1).softmax(-1) * 2)  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """Words to classes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm, self.read = nn.Embedding(20, 16), nn.LSTM(16, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.read(self.lstm(self.embed(ids))[0].mean(1))  # type: ignore[no-any-return]


class Causal(nn.Module):
    """A Llama of two layers."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2,
        )  # fmt: skip
        self.model = LlamaForCausalLM(config)

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(input_ids=ids, use_cache=False).logits  # type: ignore[no-any-return]


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(80, 3))


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.double)


WORDS = torch.tensor([[3, 17, 4, 4, 12, 0]])
MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor, Any, Any]] = {
    "convolutional": (Convolutional, numbers(2, 3, 9, 9), rp.EpsilonPlus(), 1),
    "encoder": (encoder, numbers(2, 5, 16), rp.AttnLRP(), 1),
    "recurrent": (Recurrent, WORDS, rp.LSTMLRP(), 1),
    "causal": (Causal, WORDS, rp.AttnLRP(), (-1, 3)),
}


@pytest.mark.parametrize("name", MODELS)
def test_an_exported_model_is_explained_as_the_model_is(name: str) -> None:
    if name == "causal":
        pytest.importorskip("transformers", reason="a Llama is transformers'")
    make, x, composite, target = MODELS[name]
    torch.manual_seed(0)
    model = make().double().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's export itself
        program = torch.export.export(model, (x,))
    expected = rp.LRP(model, composite).explain(x, target=target)
    found = rp.LRP(program.module(), composite).explain(x, target=target)
    assert_close(found.output, expected.output)
    assert_close(found.relevance, expected.relevance)
    assert found.audit.cuts == expected.audit.cuts == ()
    assert {d.rule for d in found.plan.decisions} == {d.rule for d in expected.plan.decisions}
    with pytest.raises(rp.InputError, match=r"got ExportedProgram: .*\.module\(\)"):
        rp.LRP(program, composite)  # type: ignore[arg-type]


class Elementwise(nn.Module):
    """One call on what a layer made and a constant."""

    def __init__(self, call: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.call, self.layer = call, nn.Linear(4, 3)
        self.register_buffer("fixed", torch.rand(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.layer(x), self.fixed)


CALLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "elu": lambda h, c: F.elu(h, 0.5),
    "celu": lambda h, c: F.celu(h, 0.7),
    "selu": lambda h, c: F.selu(h),
    "silu": lambda h, c: F.silu(h),
    "hardtanh": lambda h, c: F.hardtanh(h, -0.2, 0.3),
    "threshold": lambda h, c: F.threshold(h, 0.1, 0.2),
    "leaky_relu": lambda h, c: F.leaky_relu(h, 0.3),
    "split": lambda h, c: h.split([1, 2], 1)[1] * 2.0,
    "logarithm": lambda h, c: F.log_softmax(h, -1),
}
#: These order their arguments otherwise than torch's operators.
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1_loss": lambda h, c: F.l1_loss(h, c, reduction="none"),
    "mse_loss": lambda h, c: F.mse_loss(h, c, reduction="none"),
    "smooth_l1_loss": lambda h, c: F.smooth_l1_loss(h, c, reduction="none"),
    "huber_loss": lambda h, c: F.huber_loss(h, c, reduction="none"),
}


@pytest.mark.parametrize("name", [*CALLS, *LOSSES])
def test_an_exported_call_is_the_call_or_refused(name: str) -> None:
    torch.manual_seed(0)
    model, x = Elementwise((CALLS | LOSSES)[name]).double().eval(), numbers(2, 4)
    exported = rp.LRP(torch.export.export(model, (x,)).module(), rp.Epsilon())
    if name in LOSSES:
        # the first is of degree one, but for its constant
        refusal = rp.AuditError if name == "l1_loss" else rp.UnknownOperationError
        with pytest.raises(refusal, match=f"aten::{name}"):
            exported.explain(x, target=lambda y: y.sum())
        return
    found = exported.explain(x, target=lambda y: y.sum())
    expected = rp.LRP(model, rp.Epsilon()).explain(x, target=lambda y: y.sum())
    assert_close(found.output, model(x).detach())
    assert_close(found.relevance, expected.relevance)


class Normed(nn.Module):
    """One norm, spelled in a way."""

    def __init__(self, call: Callable[[Tensor, nn.BatchNorm2d], Tensor]) -> None:
        super().__init__()
        self.call, self.first, self.norm = call, nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.read = nn.Linear(144, 2)
        nn.init.uniform_(self.norm.weight, 0.5, 2.0)
        nn.init.uniform_(self.norm.bias, 0.5, 2.0)
        nn.init.normal_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.call(self.first(x), self.norm).relu().flatten(1))  # type: ignore[no-any-return]


SPELLINGS: list[list[Callable[[Tensor, Any], Tensor]]] = [
    [
        lambda h, n: F.batch_norm(h, n.running_mean, n.running_var, n.weight, n.bias),
        lambda h, n: torch.batch_norm(h, n.weight, n.bias, n.running_mean, n.running_var, False, 0.1, 1e-5, False),
        lambda h, n: torch.batch_norm(
            h, bias=n.bias, weight=n.weight, running_var=n.running_var, running_mean=n.running_mean, training=False,
            momentum=0.1, eps=1e-5, cudnn_enabled=False,
        ),
    ],
    [
        lambda h, n: F.instance_norm(h, None, None, n.weight, n.bias),
        lambda h, n: torch.instance_norm(h, n.weight, n.bias, None, None, True, 0.1, 1e-5, False),
        lambda h, n: torch.ops.aten.instance_norm(h, n.weight, n.bias, None, None, True, 0.1, 1e-5, False),
    ],
]  # fmt: skip


@pytest.mark.parametrize("spellings", SPELLINGS, ids=["batch", "instance"])
def test_norms_of_torch_itself(spellings: list[Callable[[Tensor, Any], Tensor]]) -> None:
    found = []
    for call in spellings:
        torch.manual_seed(0)
        found.append(rp.LRP(Normed(call).double().eval(), rp.EpsilonPlus()).explain(numbers(2, 3, 8, 8), target=1))
    for e in found[1:]:
        assert_close(e.relevance, found[0].relevance)
        assert e.audit.unexplained_share < 1e-10


class Looked(nn.Module):
    """Words looked up in a way."""

    def __init__(self, look: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.look, self.table, self.read = look, nn.Parameter(torch.randn(20, 6)), nn.Linear(6, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.read(self.look(ids, self.table).mean(1))  # type: ignore[no-any-return]


def test_embeddings_of_torch_itself() -> None:
    spellings: list[Callable[[Tensor, Tensor], Tensor]] = [
        F.embedding,
        lambda ids, table: torch.embedding(table, ids),
        lambda ids, table: torch.embedding(weight=table, indices=ids),
        lambda ids, table: torch.ops.aten.embedding(table, ids),
    ]
    found = []
    for look in spellings:
        torch.manual_seed(0)
        model = Looked(look).double().eval()
        found.append(rp.LRP(model, rp.Epsilon()).explain(WORDS, target=1).relevance)
        with pytest.raises(rp.InputError, match="holds 20 rows and was asked for 3 to 20"):
            rp.LRP(model, rp.Epsilon()).explain(torch.tensor([[3, 20]]), target=1)
    for r in found[1:]:
        assert_close(r, found[0])
