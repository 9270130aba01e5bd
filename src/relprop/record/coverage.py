"""The walk over the autograd graph: every node between output and input has a rule, or is of degree one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.checkpoint import CheckpointFunction

from relprop.record.nodes import NODES

#: The key under which a node tells that a recorded call made it: the number of that call's first node.
MARK = "relprop"

#: What the nodes of a scripted submodule are said to come from.
SCRIPTED = "a scripted module"

#: Nodes that are of degree one whoever made them: they move, select, average or add.
FREE = frozenset(
    """
    Add Sub Neg View ReshapeAlias UnsafeView Permute Transpose T Squeeze Unsqueeze Expand Slice Select Index
    IndexSelect Gather Cat Stack Unbind Split SplitWithSizes Chunk Clone ToCopy Alias AliasBackward Relu LeakyRelu
    Abs MaxPool2DWithIndices MaxPool3DWithIndices AvgPool2D AvgPool3D Mean Sum ConstantPadNd Repeat Flip Roll
    AsStrided Unfold UnfoldBackward Im2Col Col2Im PixelShuffle PixelUnshuffle ReflectionPad1D ReflectionPad2D
    ReflectionPad3D ReplicationPad1D ReplicationPad2D ReplicationPad3D UpsampleNearest1D UpsampleNearest2D
    UpsampleNearest3D UpsampleLinear1D UpsampleBilinear2D UpsampleTrilinear3D UpsampleBicubic2D
    UpsampleNearestExact1D UpsampleNearestExact2D UpsampleNearestExact3D UpsampleBicubic2DAa UpsampleBilinear2DAa
    AdaptiveMaxPool2D AdaptiveMaxPool3D AdaptiveAvgPool2D AdaptiveAvgPool3D FractionalMaxPool2D FractionalMaxPool3D
    MkldnnAdaptiveAvgPool2D Max Min Amax Amin Maximum Minimum Sort Topk Median Kthvalue Where MaskedFill
    MaskedSelect MaskedScatter Scatter ScatterAdd IndexAdd IndexPut IndexCopy IndexFill CopyBackwards Copy
    Diagonal DiagonalBackward DiagEmbed Tril Triu Movedim Swapaxes Narrow Take TakeAlongDim Cumsum Trace
    RealBackward Real Imag ViewAsReal ViewAsComplex Conj ConjPhysical FftC2C FftR2C FftC2R Hann LinalgVectorNorm
    Norm Std StdMean Cdist Lift NestedTensorFromPaddedTensor SliceScatter SelectScatter Fill Zero Detach
    NativeChannelShuffle ChannelShuffle MaxUnpool2D MaxUnpool3D Prelu RreluWithNoise Rrelu BroadcastTensors
    BackwardHookFunction
    """.split()
)


class Unknown(NamedTuple):
    """A node without a rule."""

    node: str
    function: str
    path: str


@cache
def bare(name: str) -> str:
    """`AddBackward0` -> `Add`."""
    return re.sub(r"Backward\d*$", "", name.rsplit("::", 1)[-1])


def walk(outputs: Iterable[Tensor]) -> tuple[list[Unknown], int]:
    """The nodes without a rule, and how many nodes there are in all."""
    seen: set[Any] = {t.grad_fn for t in outputs if t.grad_fn is not None}
    stack: list[Any] = [(node, None) for node in seen]
    unknown: list[Unknown] = []
    while stack:
        node, since = stack.pop()
        if since is None:
            since = node.metadata.get(MARK)
            if since is None and (found := _judged(node)) is not None:
                unknown.append(found)
        for below, _ in node.next_functions:
            if below is not None and below not in seen:
                seen.add(below)
                inner = since is not None and since <= below._sequence_nr() < node._sequence_nr()
                stack.append((below, since if inner else None))
    return unknown, len(seen)


def refusal(found: Sequence[Unknown], scripted: Sequence[str]) -> str:
    """What an error says of operations without a rule, with the lines that register one.

    scripted  the names of the model's scripted modules
    """
    lines = []
    for node, function, path in _by_call(found)[:5]:
        where = f" in module {path!r}" if path else ""
        what = f"torch function {function!r} ({node})" if function else f"operation {node}"
        if function == SCRIPTED:
            what = f"operation {node} of {function}"
            line = f"relprop.register_module(model.get_submodule({path!r}), 'identity')  # or 'gradient'"
        elif not function and node.endswith("Backward") and not node.startswith("torch::"):
            line = f"relprop.register_function({node!r}, lambda node, g: ...)  # the modified gradient of its input"
        elif not function:
            line = (
                "it ran out of sight (in torch.vmap or torch.func, in another thread, before this forward on what asks "
                "for gradients, which is to be detached, or in TorchScript: "
                f"{', '.join(scripted) or 'none here'}); relprop.register_module(TheModule, 'identity')"
            )
        else:
            line = f"relprop.op({function!r})(parser); what a parser is: help(relprop.op)"
        lines.append(f"  {what}{where} has no rule. To give it one: {line}")
    return (
        "operations without a rule lie between input and output:\n"
        + "\n".join(lines)
        + '\nOr pass unknown="gradient" to take their own gradient; the audit then says so.'
    )


def _by_call(found: Sequence[Unknown]) -> list[Unknown]:
    """Each once; the nodes of one torch function in one module together."""
    nodes: dict[tuple[str, str, str], dict[str, None]] = {}
    for node, function, path in found:
        alone = "" if function and function != SCRIPTED else node
        nodes.setdefault((alone, function, path), {})[node] = None
    return [Unknown(", ".join(each), function, path) for (_, function, path), each in nodes.items()]


def _judged(node: Any) -> Unknown | None:
    """A node that no recorded call marked."""
    if hasattr(node, "visit"):
        return None
    name = node.name()
    if name in ("torch::autograd::AccumulateGrad", "AccumulateGrad") or bare(name) in FREE:
        return None
    if getattr(type(node), "_forward_cls", None) is CheckpointFunction:
        return None  # what it computes again is looked at then
    if NODES.known(node):
        NODES.redirect(node)
        node.metadata[MARK] = node._sequence_nr()
        return None
    function, path = node.metadata.get("relprop.origin", ("", ""))
    return Unknown(name, function, path)
