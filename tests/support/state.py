"""The complete state of a model, to be compared before and after."""

from __future__ import annotations

import copy

import torch
from torch import nn

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
_GLOBAL = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
    "_global_buffer_registration_hooks",
    "_global_module_registration_hooks",
    "_global_parameter_registration_hooks",
)


def snapshot(model: nn.Module) -> dict[str, object]:
    """Everything of a model, its classes and torch's global hooks that a library might leave changed."""
    modules = list(model.named_modules())
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {
        "values": [(name, tensor.detach().clone()) for name, tensor in tensors],
        "identity": [(name, id(tensor), id(tensor.grad), tensor.requires_grad) for name, tensor in tensors],
        "version": [(name, tensor._version) for name, tensor in tensors],
        "leaf": [(name, tensor.is_leaf, len(tensor._backward_hooks or ())) for name, tensor in tensors],
        "state_dict": list(model.state_dict()),
        "hooks": [(name, hook, list(getattr(module, hook))) for name, module in modules for hook in _HOOKS],
        "modules": [(name, id(module), type(module), module.training) for name, module in modules],
        "vars": [(name, sorted(vars(module))) for name, module in modules],
        "classes": [
            (
                type(module),
                {key: id(value) for key, value in vars(type(module)).items() if not key.startswith("__")},
            )
            for _, module in modules
        ],
        "global": [(hook, list(getattr(nn.modules.module, hook))) for hook in _GLOBAL],
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "function modes": torch._C._len_torch_function_stack(),
        "functional": copy.copy({key: id(value) for key, value in vars(nn.functional).items()}),
        "tensor": {key: id(value) for key, value in vars(torch.Tensor).items() if not key.startswith("__")},
    }


def assert_same_state(before: dict[str, object], after: dict[str, object]) -> None:
    """Two snapshots are equal, entry by entry; values are compared with `torch.equal`."""
    assert before.keys() == after.keys()
    for entry, old in before.items():
        new = after[entry]
        if entry == "values":
            assert [name for name, _ in old] == [name for name, _ in new]  # type: ignore[attr-defined]
            for (name, first), (_, second) in zip(old, new, strict=True):  # type: ignore[call-overload]
                assert torch.allclose(first, second, rtol=0, atol=0, equal_nan=True), f"the value of {name} changed"
        else:
            assert old == new, f"{entry} changed"
