"""An input of another type or on another device than the model: the error names both, and the model's own stays."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop as rp

TOKENS = torch.zeros(2, 3, dtype=torch.long)


class Product(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.LSTM(4, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.cells(x)[0][:, -1]


class Words(nn.Module):
    """Ids, and features of another kind beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.dense = nn.Embedding(5, 4), nn.Linear(4, 2)

    def forward(self, ids: Tensor, features: Tensor | None = None) -> Tensor:
        x = self.words(ids).mean(1)
        return self.dense(x if features is None else features["of"][0] + self.dense(features["of"][0]) @ x[:2])


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, 2), (2, 4)),
    "product": (Product, (2, 4)),
    "convolution": (lambda: nn.Conv2d(3, 2, 3), (1, 3, 5, 5)),
    "transposed": (lambda: nn.ConvTranspose1d(3, 2, 3), (1, 3, 5)),
    "recurrent": (Recurrent, (2, 5, 4)),
    "layer norm": (lambda: nn.LayerNorm(4), (2, 4)),
    "attention": (lambda: nn.TransformerEncoderLayer(8, 2, batch_first=True, dropout=0.0), (2, 3, 8)),
}


@pytest.mark.parametrize("around", [contextlib.nullcontext, lambda: torch.autocast("cpu", dtype=torch.bfloat16)])
@pytest.mark.parametrize("name", MODELS)
def test_double_input_to_a_float_model(name: str, around: Any) -> None:
    make, shape = MODELS[name]
    with around(), pytest.raises(rp.InputError) as caught:
        rp.LRP(make(), rp.Zero()).explain(torch.ones(*shape, dtype=torch.float64), target=lambda y: y)
    assert str(caught.value) == (
        "input 0 is torch.float64, and the model's parameters are torch.float32: give x.to(torch.float32), or the "
        "model as model.to(torch.float64)"
    )
    assert isinstance(caught.value.__cause__, (RuntimeError, ValueError))  # torch's own, to be read
    assert not isinstance(caught.value.__cause__, rp.RelpropError)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.int32, torch.int16, torch.bool], ids=str)
@pytest.mark.parametrize("name", ["linear", "convolution"])
def test_integers_where_numbers_are_meant(name: str, dtype: torch.dtype) -> None:
    make, shape = MODELS[name]
    with pytest.raises(rp.InputError, match=rf"input 0 is {dtype}, .* are torch.float32: give x.to\(torch.float32\)$"):
        rp.LRP(make(), rp.Zero()).explain(torch.ones(*shape).to(dtype), target=lambda y: y)


@pytest.mark.parametrize("call", ["explain", "plan", "check"])
def test_another_device(call: str) -> None:
    """The meta device stands for any: the model's numbers and the input's lie apart."""
    x = torch.ones(2, 4, device="meta")
    with pytest.raises(
        rp.InputError, match=r"input 0 is on meta, and the model on cpu: move .* x\.to\('cpu'\)"
    ) as caught:
        getattr(rp.LRP(nn.Linear(4, 2), rp.Zero()), call)(x)
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(rp.InputError, match=r"input 0 is on cpu, and the model on meta: .* model\.to\('cpu'\)"):
        rp.LRP(nn.Linear(4, 2, device="meta"), rp.Zero()).explain(torch.ones(2, 4))


def test_the_input_that_does_not_fit_is_named() -> None:
    lrp, good = rp.LRP(Words(), rp.Zero()), torch.ones(2, 4)
    with pytest.raises(
        rp.InputError, match=r"input features\.of\.0 is torch\.float64, .* parameters are torch\.float32"
    ):
        lrp.explain(TOKENS, features={"of": [good.double()]}, target=lambda y: y)
    with pytest.raises(rp.InputError, match=r"input features\.of\.0 is on meta, and the model on cpu"):
        lrp.explain(TOKENS, features={"of": [good.to("meta")]}, target=lambda y: y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8], ids=str)
def test_ids_that_are_no_integers(dtype: torch.dtype) -> None:
    with pytest.raises(rp.InputError, match=rf"input 0 is {dtype}, .* in an embedding: give ids, x\.long\(\)"):
        rp.LRP(Words(), rp.Zero()).explain(TOKENS.to(dtype))


class Broken(Words):
    """A mistake of its own about types, which no input is to blame for."""

    def forward(self, ids: Tensor, features: Tensor | None = None) -> Tensor:
        return self.dense(self.words(ids).mean(1).half())


class Elsewhere(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to("meta"))


class Fails(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("no such thing")


@pytest.mark.parametrize(
    ("model", "x", "error", "message"),
    [
        (Broken(), TOKENS, RuntimeError, "same dtype, but got Half and Float"),
        (Elsewhere(4, 2), torch.ones(2, 4), RuntimeError, "device"),
        (Elsewhere(4, 2), torch.ones(2, 4).double(), RuntimeError, "device"),
        (Fails(4, 2), torch.ones(2, 4).double(), ValueError, "no such thing"),
        (Fails(4, 2), torch.ones(2, 4, device="meta"), ValueError, "no such thing"),
        (nn.Linear(4, 2), torch.ones(2, 3), RuntimeError, "shapes cannot be multiplied"),
    ],
    ids=["types", "device", "device of doubles", "other of doubles", "other elsewhere", "shape"],
)
def test_a_models_own_failure_stays_its_own(model: nn.Module, x: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        rp.LRP(model, rp.Zero()).explain(x, target=1)
    assert not isinstance(caught.value, rp.RelpropError)
