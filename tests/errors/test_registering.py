"""What cannot be registered is refused at once, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import relprop as rp
from relprop.ops import TABLE
from relprop.record.nodes import NODES


class Doubling(torch.autograd.Function):
    pass


FUNCTION = "register_function takes a subclass of torch.autograd.Function or the name of its node.*got "
MODULE = r"register_module takes a module or a class of modules \(nn.Module\), got "
OP = "op takes torch functions, by name or as the callables themselves, got "
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a number as a function": (lambda: rp.register_function(3), FUNCTION + "3"),
    "another class as a function": (lambda: rp.register_function(nn.Linear), FUNCTION + ".*Linear"),
    "a torch function as a function": (lambda: rp.register_function(torch.relu), FUNCTION + ".*relu.*"),
    "a pull that is none": (lambda: rp.register_function(Doubling, "gradient"), "pull must be .*got 'gradient'"),
    "a name as a module": (lambda: rp.register_module("layer1"), MODULE + "'layer1'"),
    "a list as a module": (lambda: rp.register_module([nn.Linear]), MODULE + r"\[.*Linear"),
    "another class as a module": (lambda: rp.register_module(Doubling), MODULE + ".*Doubling"),
    "a treat that is none": (
        lambda: rp.register_module(nn.Linear, ["identity"]),
        r"treat must be .*got \['identity'\]",
    ),
    "a number as an operation": (lambda: rp.op(3), OP + "3"),
    "a number among names": (lambda: rp.op("deg2rad", 3), OP + "3"),
    "no function at all": (lambda: rp.op(), r'@relprop\.op\("deg2rad"\)'),
    "a parser that is none": (lambda: rp.op("deg2rad")(3), "op decorates a parser.*got 3"),
    "a name that torch lacks": (lambda: rp.op("deg2radd")(print), "no function named 'deg2radd'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_registered(name: str) -> None:
    register, message = REFUSED[name]
    before = list(NODES._pulls), list(NODES._classes), list(NODES._modules), list(TABLE)
    with pytest.raises(rp.RegistryError, match=message):
        register()
    assert (list(NODES._pulls), list(NODES._classes), list(NODES._modules), list(TABLE)) == before
