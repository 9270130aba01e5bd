"""What is explained: from the model's output and a target to a tensor and the modified gradient at it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from relprop.errors import InputError
from relprop.numerics import nonzero

Target = Any
#: What a target may be, in a message.
_FORMS = (
    "an int; a list or tensor of ints, one a sample; a tuple that indexes the output after its batch dimension; a "
    "slice; a boolean mask of the output's shape; a callable from the raw output to the tensor to explain; or a "
    "floating tensor of the output's shape, the relevance itself"
)


@dataclass
class Seed:
    """The explained tensor, the modified gradient `g` at it (the relevance there is `tensor * g`), and what it is."""

    tensor: Tensor
    g: Tensor
    target: Any
    note: str | None = None


class Contrast:
    """A target that says by the outputs' values what relevance each of them gets (`relprop.concepts.contrast`).

    on_zeros  whether relevance may stand on outputs that are zero
    """

    on_zeros: ClassVar[bool] = False

    def gradient(self, output: Tensor) -> Tensor:
        """The modified gradient `g` at the output: the relevance there is `output * g`."""
        raise NotImplementedError


def explicit(target: Target, seed: Any) -> bool:
    """Whether relevance is given entry by entry, so that it may stand on zeros."""
    if isinstance(target, Contrast):
        return target.on_zeros
    return isinstance(seed, Tensor) or (isinstance(target, Tensor) and target.is_floating_point())


def main_output(output: Any) -> Tensor:
    """The tensor that a model's output is mostly about: itself, its logits, or its first floating tensor."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        for key in ("logits", "out", "pred", "prediction"):
            if isinstance(output.get(key), Tensor):
                return output[key]
        values: Any = output.values()
    elif isinstance(output, (list, tuple)):
        values = output
    else:
        logits = getattr(output, "logits", None)
        if isinstance(logits, Tensor):
            return logits
        values = vars(output).values() if hasattr(output, "__dict__") else ()
    for value in values:
        try:
            return main_output(value)
        except InputError:
            continue
    raise InputError(
        f"the model's output ({type(output).__name__}) holds no floating tensor: give target= as a callable that "
        "takes the output and returns the tensor to explain"
    )


def make_seed(
    output: Any,
    target: Target,
    seed: Any,
    head: Callable[[Tensor], Tensor | None],
    chosen: Any = None,
    values: Callable[[Tensor], Tensor] = torch.Tensor.detach,
) -> Seed:
    """The seed for any form of target.

    head     finds the logits before a final softmax or sigmoid
    chosen   what a callable target made of the output
    values   the values of the explained tensor, through which a relevance may be differentiated
    """
    if isinstance(seed, str) and seed not in ("value", "one"):
        raise InputError(f'seed must be "value", "one" or a tensor, got {seed!r}')
    if callable(target) and not isinstance(target, Tensor):
        value = chosen
        if not isinstance(value, Tensor):
            raise InputError(f"the target's function returned {type(value).__name__}; it must return a tensor")
        return Seed(value, _gradient(values(value), torch.ones_like(value, dtype=torch.bool), seed), target)
    tensor = main_output(output)
    note = None
    if isinstance(target, Tensor) and target.is_floating_point():
        if target.shape != tensor.shape:
            raise InputError(
                f"a relevance given as target must have the output's shape {tuple(tensor.shape)}, "
                f"got {tuple(target.shape)}"
            )
        relevance = target.detach().to(tensor.dtype)
        return Seed(tensor, relevance / nonzero(values(tensor)), "relevance")
    logits = head(tensor)
    if logits is not None and logits.shape == tensor.shape:
        tensor, note = logits, "the output is a softmax or sigmoid: its logit is explained"
    if isinstance(target, Contrast):
        if not isinstance(seed, str) or seed != "value":
            raise InputError(f"a contrast sets the relevance of every output itself: leave seed out, got {seed!r}")
        return Seed(tensor, target.gradient(values(tensor)), target, note)
    ones, described = _ones(tensor, target)
    if isinstance(seed, str) and seed == "value":
        return Seed(tensor, ones, described, note)
    return Seed(tensor, _gradient(values(tensor), ones.bool(), seed, whole=_is_mask(target)), described, note)


def _is_mask(target: Target) -> bool:
    return isinstance(target, Tensor) and target.dtype == torch.bool


def _gradient(values: Tensor, mask: Tensor, seed: Any, whole: bool = False) -> Tensor:
    """The modified gradient that puts the seed's relevance on the masked entries."""
    if isinstance(seed, Tensor):
        relevance = torch.zeros_like(values, requires_grad=False)
        try:
            relevance[mask] = seed.detach().to(values.dtype).expand(int(mask.sum())).reshape(-1) \
                if seed.numel() == 1 else seed.detach().to(values.dtype).reshape(-1)  # fmt: skip
        except RuntimeError:
            raise InputError(
                f"a seed must have one entry for each explained value ({int(mask.sum())}), got {tuple(seed.shape)}"
            ) from None
        return relevance / nonzero(values)
    if seed == "value":
        return mask.to(values.dtype)
    if whole:
        total = torch.where(mask, values, 0.0)
        dims = tuple(range(1, values.ndim)) if values.ndim > 1 else (0,)
        total = total.sum(dims, keepdim=True)
        return mask.to(values.dtype) / nonzero(total)
    return torch.where(mask, 1.0 / nonzero(values), 0.0)


def _ones(tensor: Tensor, target: Target) -> tuple[Tensor, Any]:
    """One at the entries of the output that are explained, zero at the others."""
    shape = tuple(tensor.shape)
    mask = tensor.new_zeros(shape)
    if target is None:
        if tensor.ndim == 2:
            target = tensor.detach().argmax(1)
        elif tensor.ndim == 0:
            return torch.ones_like(mask), None
        elif tensor.ndim == 1:
            return torch.ones_like(mask), None
        else:
            raise InputError(
                f"the output has shape {shape}: say what to explain, for example target=(position, class), "
                "a mask of that shape, or a callable on the output"
            )
    if isinstance(target, bool):
        raise InputError("target must not be a bool; give an index, a tuple, a tensor or a callable")
    if isinstance(target, int):
        return _single(mask, target, shape), target
    if isinstance(target, Tensor):
        return _by_tensor(mask, target, shape), target
    if isinstance(target, list) and all(isinstance(t, int) for t in target):
        tensor_target = torch.tensor(target, device=tensor.device)
        return _by_tensor(mask, tensor_target, shape), tensor_target
    if isinstance(target, (tuple, list)):
        index = tuple(target)
        index = index if len(index) == len(shape) and len(shape) < 2 else (slice(None), *index)
        try:
            mask[index] = 1
        except (IndexError, TypeError, ValueError) as error:
            raise InputError(
                f"target {target!r} does not index an output of shape {shape} (after the batch): {error}"
            ) from None
        return mask, target
    if isinstance(target, slice):
        mask[:, target] = 1
        return mask, target
    number = f" {int(target)}," if isinstance(target, float) and target.is_integer() else ""
    raise InputError(f"target {target!r} ({type(target).__name__}) is not understood: give{number} {_FORMS}")


def _single(mask: Tensor, target: int, shape: tuple[int, ...]) -> Tensor:
    if len(shape) > 2:
        raise InputError(
            f"the output has shape {shape}: a single index is ambiguous, give a tuple such as (-1, {target})"
        )
    if not shape:
        if target != 0:
            raise InputError(f"target {target} is out of range: the output is a single value")
        mask.fill_(1)
        return mask
    size = shape[-1]
    if not -size <= target < size:
        raise InputError(f"target {target} is out of range: the output has {size} entries (shape {shape})")
    mask[..., target] = 1
    return mask


def _by_tensor(mask: Tensor, target: Tensor, shape: tuple[int, ...]) -> Tensor:
    target = target.to(mask.device)
    if target.dtype == torch.bool:
        if tuple(target.shape) != shape and tuple(target.shape) != shape[1:]:
            raise InputError(f"a mask must have the output's shape {shape}, got {tuple(target.shape)}")
        if not bool(target.any()):
            raise InputError("the mask is False everywhere: there is nothing to explain")
        return (target | mask.bool()).to(mask.dtype)
    if target.ndim == 0:
        return _single(mask, int(target), shape)
    if len(shape) != 2 or tuple(target.shape) != shape[:1]:
        raise InputError(
            f"a tensor of class indices must hold one for each of the {shape[0] if shape else 0} samples of an output "
            f"of shape (samples, classes), got {tuple(target.shape)} for an output of shape {shape}"
        )
    classes = target.tolist()
    if classes and not -shape[1] <= min(classes) <= max(classes) < shape[1]:
        raise InputError(f"target {classes} is out of range: the output has {shape[1]} classes")
    if min(classes, default=0) < 0:
        target = target.remainder(shape[1])
    return mask.scatter_(1, target.long().unsqueeze(1), 1)
