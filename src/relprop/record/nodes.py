"""Rules for what no torch call shows: a user's `autograd.Function`, a scripted or traced submodule."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from relprop.errors import ModelStateError, RegistryError

Pull = Callable[[Any, Any], Any]


class Nodes:
    """From custom functions to what their backward becomes, and from modules to what they count as."""

    def __init__(self) -> None:
        self._pulls: dict[Any, Pull | None] = {}
        self._classes: dict[type, str] = {}
        self._modules: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()

    def register_function(
        self, function: type[torch.autograd.Function] | str, pull: Pull | None = None, replace: bool = False
    ) -> None:
        """Say how relevance passes a custom `autograd.Function`.

        function  the class, or the name of its node ("MyFunctionBackward", or with its module before it)
        pull      called as `pull(node, g)` with the function's context (`node.saved_tensors` and what its forward
                  noted on `ctx`) and the modified gradient `g` at the output (a tuple of them where there are
                  several outputs); returns the modified gradients of the inputs. For an elementwise function of a
                  saved `x`, the identity rule is `lambda node, g: g * f(x) / x`. None: the function is of degree
                  one and its own backward is right
        """
        if not (isinstance(function, str) or _is_class(function, torch.autograd.Function)):
            raise RegistryError(
                "register_function takes a subclass of torch.autograd.Function or the name of its node, such as "
                f'"MyFunctionBackward", got {function!r}; for a torch function there is relprop.op'
            )
        if pull is not None and not callable(pull):
            raise RegistryError(f"pull must be a function pull(node, g), or None for degree one, got {pull!r}")
        if function in self._pulls and not replace:
            raise RegistryError(
                f"{_shown(function)} is registered already; pass replace=True to override it on purpose"
            )
        self._pulls[function] = pull

    def register_module(
        self, module: type[nn.Module] | nn.Module, treat: str = "identity", replace: bool = False
    ) -> None:
        """Take a module, or every module of a class, as one operation, whatever runs inside.

        treat   "identity": an elementwise function of its first argument, relevance passes unchanged;
                "gradient": of degree one, its own gradient is right
        """
        if not (isinstance(module, nn.Module) or _is_class(module, nn.Module)):
            raise RegistryError(f"register_module takes a module or a class of modules (nn.Module), got {module!r}")
        if treat not in ("identity", "gradient"):
            raise RegistryError(f'treat must be "identity" or "gradient", got {treat!r}')
        known = self._classes if isinstance(module, type) else self._modules
        if module in known and not replace:
            raise RegistryError(f"{_shown(module)} is registered already; pass replace=True to override it on purpose")
        known[module] = treat  # type: ignore[index]

    def _key(self, node: Any) -> Any:
        function = getattr(type(node), "_forward_cls", None)
        name = node.name()
        keys = (function, f"{function.__module__}.{name}" if function is not None else None, name)
        return next((key for key in keys if key is not None and key in self._pulls), None)

    def known(self, node: Any) -> bool:
        return self._key(node) is not None

    def redirect(self, node: Any) -> None:
        """Let the node's registered pull make its modified gradients."""
        pull = self._pulls[self._key(node)]
        if pull is None:
            return
        name = node.name()
        held = weakref.ref(node)  # the hook belongs to the node: it must not keep it alive

        def hook(inputs: tuple[Any, ...], gs: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if all(g is None for g in gs):
                return None
            try:
                made = pull(held(), gs[0] if len(gs) == 1 else gs)
            except CheckpointError as error:
                raise ModelStateError(
                    f"{name}: a checkpoint with use_reentrant=False gives what was saved once, to the function's own "
                    "backward, and the function that is registered for it reads it too: checkpoint with "
                    "use_reentrant=True, or run the model without checkpoints"
                ) from error
            made = tuple(made) if isinstance(made, (tuple, list)) else (made,)
            return made + (None,) * (len(inputs) - len(made))

        node.register_hook(hook)

    @property
    def has_modules(self) -> bool:
        return bool(self._classes or self._modules)

    def module(self, module: nn.Module) -> str | None:
        return self._modules.get(module) or self._classes.get(type(module))

    def forget(self, what: Any) -> None:
        """Take a registration back."""
        self._pulls.pop(what, None)
        if isinstance(what, nn.Module):
            self._modules.pop(what, None)
        elif isinstance(what, type):
            self._classes.pop(what, None)


def _is_class(what: Any, of: type) -> bool:
    return isinstance(what, type) and issubclass(what, of)


def _shown(what: Any) -> str:
    return what if isinstance(what, str) else getattr(what, "__name__", type(what).__name__)


NODES = Nodes()


def _tanh_gelu(node: Any, g: Tensor) -> Tensor:
    """The identity rule of `x * (1 + tanh(0.79788456 x (1 + 0.044715 x^2))) / 2`."""
    x = node.saved_tensors[0]
    return g * 0.5 * (1 + torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x)))


def _square_root(node: Any, g: Tensor) -> Tensor:
    """The identity rule of a square root whose derivative is bounded by 1000."""
    return g * torch.rsqrt(node.saved_tensors[0].clamp(min=0.25e-6))


# Functions of widely used packages.
_MODELS = "transformers.models"
NODES.register_function(f"{_MODELS}.bloom.modeling_bloom.GeLUFunctionBackward", _tanh_gelu)
NODES.register_function(f"{_MODELS}.recurrent_gemma.modeling_recurrent_gemma.SqrtBoundDerivativeBackward", _square_root)
