"""zennit's attributors over any composite of relprop: `output, relevance = attributor(input, attr_output)`.

Nothing is registered on the model, so their context does nothing but be one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from relprop import presets
from relprop.composite import Composite, as_composite
from relprop.errors import InputError
from relprop.explain import LRP
from relprop.numerics import nonzero
from relprop.rules import Gradient as GradientRule
from relprop.selectors import All

Output = Tensor | Callable[[Tensor], Tensor] | None


class PlainGradient(Composite):
    """No rules: the map is the gradient itself."""

    reading: Literal["relevance", "gradient"] = "gradient"

    def __init__(self) -> None:
        super().__init__([(All(), GradientRule())], name="gradient")


class Attributor:
    """Base of the attributors.

    composite    a preset, composite, rule or rows of relprop; None: the plain gradient
    attr_output  relevance at the output: a tensor of its shape, or a function of it; None: the output itself
    """

    def __init__(self, model: nn.Module, composite: Any = None, attr_output: Output = None) -> None:
        if any(base.__module__ == "zennit.core" for base in type(composite).__mro__):
            name = type(composite).__name__
            near = f"relprop.{name}" if hasattr(presets, name) else "a preset, or rows of selectors and rules"
            raise InputError(f"{name} is a composite of zennit; here it is {near}, without canonizers")
        self.model = model
        self.composite = PlainGradient() if composite is None else as_composite(composite)
        self.attr_output = attr_output
        self._lrp = LRP(model, self.composite)

    def __enter__(self) -> Attributor:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    @property
    def inactive(self) -> Callable[[], AbstractContextManager[None]]:
        """A context in which the model runs without rules, as it always does."""
        return nullcontext

    def __call__(self, input: Tensor, attr_output: Output = None) -> tuple[Tensor, Tensor]:
        """The model's output and the attribution of the input."""
        return self.forward(input, self.attr_output if attr_output is None else attr_output)

    def forward(self, input: Tensor, attr_output: Output) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _run(self, input: Tensor) -> Tensor:
        with torch.no_grad():
            return self.model(input)

    def _seed(self, output: Tensor, attr_output: Output) -> Tensor:
        """Relevance at the output."""
        made = output if attr_output is None else attr_output(output) if callable(attr_output) else attr_output
        if not isinstance(made, Tensor):
            raise InputError(f"attr_output must be a tensor, or give one of the output, got {type(made).__name__}")
        try:
            return made.detach().to(output.dtype).expand(output.shape)
        except RuntimeError:
            seen = f"attr_output has shape {tuple(made.shape)}, the output {tuple(output.shape)}"
            raise InputError(f"{seen}: it is relevance at the output") from None

    def _propagate(self, input: Tensor, attr_output: Output) -> tuple[Tensor, Tensor]:
        output = self._run(input)
        seed = self._seed(output, attr_output)
        if self.composite.reading == "gradient":  # what is given is the gradient at the output, not relevance
            seed = seed * nonzero(output)
        found = self._lrp.explain(input, target=seed)
        return found.output, found.relevance


class Gradient(Attributor):
    """The composite's relevance; without one, the gradient."""

    def forward(self, input: Tensor, attr_output: Output) -> tuple[Tensor, Tensor]:
        return self._propagate(input, attr_output)


class SmoothGrad(Attributor):
    """The mean over noisy inputs, the last of them without noise.

    noise_level  standard deviation, relative to the range of each sample
    [Smilkov et al. 2017]
    """

    def __init__(
        self,
        model: nn.Module,
        composite: Any = None,
        attr_output: Output = None,
        noise_level: float = 0.1,
        n_iter: int = 20,
    ) -> None:
        super().__init__(model, composite, attr_output)
        self.noise_level, self.n_iter = noise_level, _positive(n_iter)

    def forward(self, input: Tensor, attr_output: Output) -> tuple[Tensor, Tensor]:
        dims = tuple(range(1, input.ndim))
        spread = self.noise_level * (input.amax(dims, keepdim=True) - input.amin(dims, keepdim=True))
        total = torch.zeros_like(input)
        for i in range(self.n_iter):
            last = i == self.n_iter - 1
            noisy = input if last else input + torch.randn_like(input) * spread
            output, relevance = self._propagate(noisy, attr_output)
            total += relevance / self.n_iter
        return output, total


class IntegratedGradients(Attributor):
    """The mean along the straight way from a baseline, times the way. [Sundararajan et al. 2017]"""

    def __init__(
        self,
        model: nn.Module,
        composite: Any = None,
        attr_output: Output = None,
        baseline_fn: Callable[[Tensor], Tensor] = torch.zeros_like,
        n_iter: int = 20,
    ) -> None:
        super().__init__(model, composite, attr_output)
        self.baseline_fn, self.n_iter = baseline_fn, _positive(n_iter)

    def forward(self, input: Tensor, attr_output: Output) -> tuple[Tensor, Tensor]:
        baseline = self.baseline_fn(input)
        total = torch.zeros_like(input)
        for step in range(1, self.n_iter + 1):
            point = baseline + step / self.n_iter * (input - baseline)
            output, relevance = self._propagate(point, attr_output)
            total += relevance / self.n_iter
        return output, total * (input - baseline)


def occlude(input: Tensor, mask: Tensor) -> Tensor:
    """Keep what is in the window, zero the rest: zennit's default."""
    return input * mask


class Occlusion(Attributor):
    """The output with all but a sliding window taken away, given to the window. The composite plays no part.

    occlusion_fn  from the input and the window's mask to the occluded input
    window, stride  ints for all dimensions after the batch, or tuples for the last ones
    """

    def __init__(
        self,
        model: nn.Module,
        composite: Any = None,
        attr_output: Output = None,
        occlusion_fn: Callable[[Tensor, Tensor], Tensor] = occlude,
        window: int | Sequence[int] = 8,
        stride: int | Sequence[int] = 8,
    ) -> None:
        super().__init__(model, composite, attr_output)
        self.occlusion_fn = occlusion_fn
        self.window, self.stride = window, stride

    def forward(self, input: Tensor, attr_output: Output) -> tuple[Tensor, Tensor]:
        output = self._run(input)
        total = torch.zeros_like(input)
        for mask in self._masks(input):
            part = self._seed(self._run(self.occlusion_fn(input, mask)), attr_output)
            total += part.flatten(1).sum(1).reshape(-1, *(1,) * (input.ndim - 1)) * mask
        return output, total

    def _masks(self, input: Tensor) -> Iterator[Tensor]:
        window, stride = (self._sizes(given, input) for given in (self.window, self.stride))
        if len(window) != len(stride):
            raise InputError(f"window {self.window} and stride {self.stride} must be of one length")
        space = input.shape[input.ndim - len(window) :]
        starts = [range(0, size, step) for size, step in zip(space, stride, strict=True)]
        for corner in itertools.product(*starts):
            mask = torch.zeros(input.shape, dtype=torch.bool, device=input.device)
            cut: Any = (..., *(slice(c, c + w) for c, w in zip(corner, window, strict=True)))
            mask[cut] = True
            yield mask

    @staticmethod
    def _sizes(given: int | Sequence[int], input: Tensor) -> tuple[int, ...]:
        if isinstance(given, int):
            return tuple(min(given, size) for size in input.shape[1:])
        if len(given) >= input.ndim:
            raise InputError(
                f"window or stride {tuple(given)} has too many entries for an input of {input.ndim} dimensions"
            )
        return tuple(given)


def _positive(n_iter: int) -> int:
    if n_iter < 1:
        raise InputError(f"n_iter must be at least 1, got {n_iter}")
    return n_iter
