"""Autocast as it is on a GPU, on a machine that has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

#: What CUDA's autocast runs in the narrow type, in float32, and in the widest type of the operands.
NARROW = frozenset(
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear matmul __matmul__ __rmatmul__ mm "
    "bmm addmm baddbmm addbmm mv addmv einsum prelu scaled_dot_product_attention lstm gru rnn_tanh rnn_relu lstm_cell "
    "gru_cell".split()
)
WIDE = frozenset(
    "softmax log_softmax layer_norm native_layer_norm group_norm exp log pow __pow__ rsqrt reciprocal softplus sum "
    "cumsum norm cosine_similarity erfinv expm1 log1p".split()
)
WIDEST = frozenset("cat stack addcmul addcdiv bilinear dot index_put scatter_add tensordot".split())


class LikeCuda(TorchFunctionMode):
    """Casts below whoever looks on, where a model's forward runs, by the lists of CUDA's autocast."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.depth = dtype, 0
        self.handles = [
            model.register_forward_pre_hook(lambda *_: self._step(1)),
            model.register_forward_hook(lambda *_: self._step(-1)),
        ]

    def _step(self, by: int) -> None:
        self.depth += by

    def __exit__(self, *details: Any) -> None:
        for handle in self.handles:
            handle.remove()
        super().__exit__(*details)

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if not self.depth or name not in NARROW | WIDE | WIDEST:
            return func(*args, **kwargs)
        found = [t.dtype for t in _tensors((args, kwargs))]
        widest = torch.float32 if torch.float32 in found else self.dtype
        to = self.dtype if name in NARROW else torch.float32 if name in WIDE else widest
        return func(*_cast(args, to), **_cast(kwargs, to))


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [t for part in parts for t in _tensors(part)]


def _cast(value: Any, to: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(to) if value.dtype in (torch.float32, torch.float16, torch.bfloat16) else value
    if isinstance(value, dict):
        return {k: _cast(v, to) for k, v in value.items()}
    return type(value)(_cast(v, to) for v in value) if type(value) in (list, tuple) else value
