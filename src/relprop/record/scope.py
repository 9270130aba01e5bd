"""Which module is running, for the time of one call in one thread.

Whoever asks looks up the stack of Python's frames for the module that is being called. PyTorch's global module hooks,
which every module pays for, follow the modules only where something is to be done when one is entered or left.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from relprop.errors import ModelStateError
from relprop.record.coverage import MARK, SCRIPTED
from relprop.record.marks import upcoming
from relprop.record.nodes import NODES
from relprop.record.tensors import tensors

Tap = Callable[[str, tuple[str, ...], Any], Any]
Whole = Callable[[nn.Module, str, tuple[Any, ...], int, Any], Any]
#: A module and its names.
Where = tuple[nn.Module | None, tuple[str, ...]]
#: The frame of a module that is being called runs this.
_CALLED = nn.Module._call_impl.__code__
#: The names where no module of the model runs.
_OUTSIDE = ("",)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
#: Nodes of leaves have numbers from here on.
_LEAVES = 2**63


class ModuleScope:
    """A context in which `paths` names the running module.

    tap    called with "input" or "output", a module's paths and what goes in or out; what it returns is handed on
    whole  called with a module that is registered as one operation, how it counts, its arguments, the number of the
           first node that it can have made, and its output
    watch  whether modules are followed by hooks in any case: then nodes that no recorded call made bear the name of
           the module that did
    followed  whether they are or were, in the latest context
    made   the number of the node that follows those which recorded calls made
    inside  the module of that sort that is running, if any: nothing in it is looked at
    """

    def __init__(
        self, model: nn.Module, tap: Tap | None = None, whole: Whole | None = None, watch: bool = False
    ) -> None:
        self._names, hooked = _names(model)
        self._stack: list[tuple[nn.Module, tuple[str, ...]]] = []
        self._paths: tuple[str, ...] = _OUTSIDE
        self._thread = threading.get_ident()
        self._tap, self._whole = tap, whole
        self._handles: list[Any] = []
        self._below: Any = None
        self._watch = watch or hooked or tap is not None
        self.followed = False
        self.inside: tuple[nn.Module, str, tuple[Any, ...], int] | None = None

    def __enter__(self) -> ModuleScope:
        self._registered = self._whole is not None and NODES.has_modules
        self._compiler, self.made = "torch._dynamo" in sys.modules, upcoming()
        self._below = sys._getframe(1)
        register: Any = torch.nn.modules.module
        others = any(getattr(register, f"_global{kind}") for kind in _HOOKS)
        unknown = nn.Module._call_impl.__code__ is not _CALLED  # somebody calls modules in another way
        self.followed = self._watch or self._registered or others or unknown
        if self.followed:
            self._handles.append(register.register_module_forward_pre_hook(self._enter))
            self._handles.append(register.register_module_forward_hook(self._leave, always_call=True))
        return self

    def __exit__(self, *exc: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._below = None
        self._watch = True  # where it is entered once more, a checkpoint computes something again

    def where(self, above: int = 1) -> Where:
        """The innermost running module, and the names of the innermost one that belongs to the model.

        above   so many frames from here no module is being called, as whoever asks knows: they are left out
        """
        if self._handles:
            return self._stack[-1][0] if self._stack else None, self._paths
        innermost, frame = None, sys._getframe(above)
        while frame is not None and frame is not self._below:
            if frame.f_code is _CALLED:
                module = frame.f_locals["self"]
                innermost = module if innermost is None else innermost
                names = self._names.get(module)
                if names is not None:
                    return innermost, names
            frame = frame.f_back  # type: ignore[assignment]
        return innermost, _OUTSIDE

    @property
    def paths(self) -> tuple[str, ...]:
        """The names of the innermost running module that belongs to the model."""
        return self.where()[1]

    @property
    def module(self) -> nn.Module | None:
        """The innermost running module."""
        return self.where()[0]

    def _elsewhere(self) -> bool:
        """Whether a compiler is looking on, or another thread runs."""
        return (self._compiler and torch.compiler.is_compiling()) or threading.get_ident() != self._thread

    def _enter(self, module: nn.Module, args: Any) -> Any:
        if self._elsewhere():
            return None
        if module.training:
            _refuse_tracking(module, self._names)
        self._stack.append((module, self._paths))
        names = self._names.get(module)
        if names is not None:
            self._paths = names
        given = None
        if self._tap is not None and self.inside is None and names is not None:
            given = args = self._tap_given(module, args)
        if not self._registered or self.inside is not None:
            return given
        treat = NODES.module(module)
        if treat is None:
            return given
        self.inside = (module, treat, args, upcoming())
        if treat == "gradient":
            return args
        return tuple(a.detach().clone() if isinstance(a, Tensor) and a.requires_grad else a for a in args)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self._elsewhere():
            return None
        handed_on = None
        if self.inside is not None and self.inside[0] is module:
            _, treat, given, since = self.inside
            self.inside = None
            if output is not None and self._whole is not None:
                handed_on = output = self._whole(module, treat, given, since, output)
        elif self.made != upcoming():
            self._label(module, output)
        while self._stack:
            left, self._paths = self._stack.pop()
            if left is module:
                break
        if self._tap is not None and output is not None and module in self._names:
            tapped = self._tap("output", self._names[module], output)
            return handed_on if tapped is None else tapped
        return handed_on

    def _label(self, module: nn.Module, output: Any) -> None:
        """Nodes were made that no recorded call made: note where they came from."""
        scripted = isinstance(module, torch.jit.ScriptModule) and self.inside is None
        with torch._C.DisableTorchFunction():  # reading an attribute is no call of the model's
            label(output, self.made, (SCRIPTED if scripted else "", self._paths[0]))

    def _tap_given(self, module: nn.Module, args: Any) -> Any:
        """What a module is given, by position and by keyword."""
        assert self._tap is not None
        names = self._names[module]
        keywords = _keywords(module)
        tapped = self._tap("input", names, (*args, *keywords.values()))
        if tapped is None:
            return args
        keywords.update(zip(keywords, tapped[len(args) :], strict=True))
        return tapped[: len(args)]

    def scripted(self) -> list[str]:
        """The names of the model's scripted modules, which run out of sight."""
        return [n for m, names in self._names.items() if isinstance(m, torch.jit.ScriptModule) for n in names]


def _keywords(module: nn.Module) -> dict[str, Any]:
    """The keyword arguments of a module that is being called. A global hook is given the positional ones alone, and a
    hook on the module would change the model, so they are taken from the call itself."""
    frame: Any = sys._getframe(1)
    for _ in range(8):
        frame = frame.f_back
        if frame is None:
            break
        if frame.f_code.co_name == "_call_impl" and frame.f_locals.get("self") is module:
            return frame.f_locals["kwargs"]
    return {}


def _names(model: nn.Module) -> tuple[dict[nn.Module, tuple[str, ...]], bool]:
    """The paths of every module, as `named_modules(remove_duplicate=False)` gives them; and whether there is one at
    whose entering or leaving something is to be done: it has hooks (what these call is the outer module's), is
    scripted, or is in training mode."""
    found: dict[nn.Module, tuple[str, ...]] = {}
    met = False
    stack = [("", model)]
    while stack:
        name, module = stack.pop()
        found[module] = (*found[module], name) if module in found else (name,)
        prefix = f"{name}." if name else ""
        stack.extend((prefix + key, part) for key, part in reversed(module._modules.items()) if part is not None)
        met = met or module.training or _has_hooks(module) or isinstance(module, torch.jit.ScriptModule)
    return found, met


def _has_hooks(module: nn.Module) -> bool:
    forward = module._forward_hooks or module._forward_pre_hooks
    return bool(forward or module._backward_hooks or module._backward_pre_hooks)


def _refuse_tracking(module: nn.Module, names: dict[nn.Module, tuple[str, ...]]) -> None:
    """A norm that would follow its batch's statistics: refused before it runs, for it changes itself."""
    if isinstance(module, _NormBase) and module.track_running_stats:
        path = names.get(module, ("",))[0]
        raise ModelStateError(
            f"{type(module).__name__} {path!r} is in training mode, on the statistics of the batch: an item's "
            "relevance would depend on the others, and the model would change. Call model.eval() first."
        )


def label(output: Any, since: int, origin: tuple[str, str]) -> None:
    """Note on the nodes that a call made, as far as no recorded call made them, where they came from.

    since  the number of the first node that the call can have made
    """
    stack = [t.grad_fn for t in tensors(output)]
    while stack:
        node: Any = stack.pop()
        if node is None or not since <= node._sequence_nr() < _LEAVES or hasattr(node, "visit"):
            continue
        if MARK in node.metadata or "relprop.origin" in node.metadata:
            continue
        node.metadata["relprop.origin"] = origin
        stack.extend(n for n, _ in node.next_functions)
