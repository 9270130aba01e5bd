"""pnpxai's LRP explainers: `attribute(inputs, targets)`, tunables, copies with other settings.

They have the form that pnpxai's optimiser and `relprop.tune` want (`get_tunables`, `set_kwargs`), and need nothing
of pnpxai themselves.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from relprop.adapters.modules import path_of, pattern
from relprop.composite import Composite
from relprop.errors import InputError
from relprop.explain import LRP
from relprop.explain.seed import main_output
from relprop.numerics import Epsilons
from relprop.presets import EpsilonAlpha2Beta1, EpsilonGammaBox, EpsilonPlus, UniformEpsilon
from relprop.rules import EpsilonPool, Signed
from relprop.selectors import Kind

Extractor = Callable[[Any], Any]
Tunables = dict[str, tuple[type, dict[str, Any]]]

_AVERAGES = tuple(f"{kind}avg_pool{n}d" for kind in ("", "adaptive_") for n in (1, 2, 3))
_LOG = {"low": 1e-6, "high": 1, "log": True}


class LRPBase:
    """What the explainers share.

    model                             in whatever mode it is; it is not changed
    zennit_canonizers                 nothing has to be canonized: None, or empty
    forward_arg_extractor             from the inputs to those that are explained; None: all
    additional_forward_arg_extractor  from the inputs to what else the model takes, after those
    layer                             a module, its path, or the name of an argument of the model's forward; or several:
                                      relevance there instead of at the inputs
    n_classes                         not needed; where it is given, the model's output must have as many
    seed                              relevance at the output: "one" as pnpxai has it, or "value"

    Parameters are read when `attribute` is called, so `set_kwargs` changes what is explained.
    """

    PARAMETERS: ClassVar[tuple[str, ...]] = ()
    TUNABLES: ClassVar[Tunables] = {}
    EXPLANATION_TYPE = "attribution"
    _COMMON: ClassVar[tuple[str, ...]] = (
        "zennit_canonizers", "forward_arg_extractor", "additional_forward_arg_extractor", "layer", "n_classes", "seed"
    )  # fmt: skip

    def __init__(
        self,
        model: nn.Module,
        zennit_canonizers: Sequence[Any] | None,
        forward_arg_extractor: Extractor | None,
        additional_forward_arg_extractor: Extractor | None,
        layer: Any,
        n_classes: int | None,
        seed: str,
    ) -> None:
        self.model = model
        self.zennit_canonizers = zennit_canonizers
        self.forward_arg_extractor = forward_arg_extractor
        self.additional_forward_arg_extractor = additional_forward_arg_extractor
        self.layer = layer
        self.n_classes = n_classes
        self.seed = seed
        self._check()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    def _check(self) -> None:
        """What is out of range is refused when it is given."""
        self.composite()
        self._places()
        if self.zennit_canonizers:
            raise InputError("zennit_canonizers: nothing has to be canonized here, leave them out")
        if self.seed not in ("one", "value"):
            raise InputError(f'seed must be "one" or "value", got {self.seed!r}')

    def composite(self) -> Composite:
        """The preset with the present parameters."""
        raise NotImplementedError

    def attribute(self, inputs: Any, targets: Any) -> Any:
        """Relevance of the inputs, or at the layers: a tensor, or a tuple for several.

        inputs   a tensor, a tuple of tensors, or whatever the extractors take
        targets  a class index, or one a sample
        """
        explained = inputs if self.forward_arg_extractor is None else self.forward_arg_extractor(inputs)
        explained = explained if isinstance(explained, tuple) else (explained,)
        further: Any = ()
        if self.additional_forward_arg_extractor is not None:
            further = self.additional_forward_arg_extractor(inputs)
            further = further if isinstance(further, tuple) else (further,)
        places = self._places()
        target = targets if isinstance(targets, int) or targets is None else torch.as_tensor(targets)
        found = LRP(self.model, self.composite()).explain(
            *explained,
            *further,
            target=target,
            seed=self.seed,  # type: ignore[arg-type]
            layers=[pattern(p) for p in places if isinstance(p, str)],
            wrt=[str(i) for i in range(len(explained))],
        )
        output = main_output(found.output)
        if self.n_classes is not None and output.shape[-1] != self.n_classes:
            raise InputError(f"n_classes is {self.n_classes}, the model's output has shape {tuple(output.shape)}")
        relevance = found.relevance if isinstance(found.relevance, tuple) else (found.relevance,)
        if not places:
            return relevance[0] if len(relevance) == 1 else relevance
        at = tuple(self._at(found.layers, relevance, place) for place in places)
        return at[0] if len(at) == 1 else at

    def _places(self) -> list[str | int]:
        """Paths of modules, and positions of arguments, that `layer` stands for."""
        if self.layer is None:
            return []
        several = isinstance(self.layer, Sequence) and not isinstance(self.layer, (str, nn.Module))
        return [self._place(entry) for entry in (self.layer if several else [self.layer])]

    def _place(self, entry: Any) -> str | int:
        paths = dict(self.model.named_modules())
        arguments = list(inspect.signature(self.model.forward).parameters)
        if isinstance(entry, str) and entry not in paths and entry in arguments:
            return arguments.index(entry)
        return path_of(self.model, entry)

    @staticmethod
    def _at(layers: dict[str, Any], relevance: tuple[Tensor, ...], place: str | int) -> Any:
        if isinstance(place, int):
            if place >= len(relevance):
                raise InputError(f"argument {place} of the model is not among the explained ones")
            return relevance[place]
        if place not in layers:
            raise InputError(f"nothing that depends on the input came out of {place!r}: it did not run")
        return layers[place]

    def get_tunables(self) -> Tunables:
        """What may be tuned: by name, a type and the arguments of Optuna's `suggest_float`."""
        return {name: (kind, dict(options)) for name, (kind, options) in self.TUNABLES.items()}

    def set_kwargs(self, **kwargs: Any) -> Any:
        """A copy with other parameters."""
        known = (*self.PARAMETERS, *self._COMMON)
        for name in kwargs:
            if name not in known:
                raise InputError(f"{type(self).__name__} has no parameter {name!r}; there are {', '.join(known)}")
        made = self.copy()
        for name, value in kwargs.items():
            setattr(made, name, value)
        made._check()
        return made

    def copy(self) -> Any:
        """A copy that shares the model."""
        return copy.copy(self)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.PARAMETERS)
        return f"{type(self).__name__}({shown})"


class LRPUniformEpsilon(LRPBase):
    """Epsilon on every linear map; 0.25 unless another is given, as pnpxai has it.

    stabilizer  of sums and average pools
    """

    PARAMETERS = ("epsilon", "stabilizer")
    TUNABLES = {"epsilon": (float, _LOG)}

    def __init__(
        self,
        model: nn.Module,
        epsilon: Epsilons = 0.25,
        stabilizer: Epsilons = 1e-6,
        zennit_canonizers: Sequence[Any] | None = None,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        layer: Any = None,
        n_classes: int | None = None,
        seed: str = "one",
    ) -> None:
        self.epsilon, self.stabilizer = epsilon, stabilizer
        super().__init__(
            model,
            zennit_canonizers,
            forward_arg_extractor,
            additional_forward_arg_extractor,
            layer,
            n_classes,
            seed,
        )

    def composite(self) -> Composite:
        epsilon = UniformEpsilon(self.epsilon)
        norm = [(Kind("sum"), Signed(self.stabilizer)), (Kind(*_AVERAGES), EpsilonPool(self.stabilizer))]
        return _Epsilon([*epsilon.rows, *norm], name=str(epsilon.name))


class _Epsilon(Composite):
    """Rows that need not all match: not every model has sums and average pools."""


class LRPEpsilonGammaBox(LRPBase):
    """z-box on the convolution at the entry, generalised gamma on the others, epsilon on dense layers."""

    PARAMETERS = ("low", "high", "epsilon", "gamma", "stabilizer")
    TUNABLES = {"epsilon": (float, _LOG), "gamma": (float, _LOG)}

    def __init__(
        self,
        model: nn.Module,
        low: float | Tensor = -3.0,
        high: float | Tensor = 3.0,
        epsilon: Epsilons = 1e-6,
        gamma: float = 0.25,
        stabilizer: Epsilons = 1e-6,
        zennit_canonizers: Sequence[Any] | None = None,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        layer: Any = None,
        n_classes: int | None = None,
        seed: str = "one",
    ) -> None:
        self.low, self.high = low, high
        self.epsilon, self.gamma, self.stabilizer = epsilon, gamma, stabilizer
        super().__init__(
            model,
            zennit_canonizers,
            forward_arg_extractor,
            additional_forward_arg_extractor,
            layer,
            n_classes,
            seed,
        )

    def composite(self) -> Composite:
        return EpsilonGammaBox(self.low, self.high, self.gamma, self.epsilon, self.stabilizer)


class _Conv(LRPBase):
    """A rule on convolutions, epsilon on dense layers."""

    PARAMETERS = ("epsilon", "stabilizer")
    TUNABLES = {"epsilon": (float, _LOG)}

    def __init__(
        self,
        model: nn.Module,
        epsilon: Epsilons = 1e-6,
        stabilizer: Epsilons = 1e-6,
        zennit_canonizers: Sequence[Any] | None = None,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        layer: Any = None,
        n_classes: int | None = None,
        seed: str = "one",
    ) -> None:
        self.epsilon, self.stabilizer = epsilon, stabilizer
        super().__init__(
            model,
            zennit_canonizers,
            forward_arg_extractor,
            additional_forward_arg_extractor,
            layer,
            n_classes,
            seed,
        )


class LRPEpsilonPlus(_Conv):
    """z+ on convolutions, epsilon on dense layers."""

    def composite(self) -> Composite:
        return EpsilonPlus(self.epsilon, self.stabilizer)


class LRPEpsilonAlpha2Beta1(_Conv):
    """alpha-beta with alpha 2 and beta 1 on convolutions, epsilon on dense layers."""

    def composite(self) -> Composite:
        return EpsilonAlpha2Beta1(self.epsilon, self.stabilizer)
