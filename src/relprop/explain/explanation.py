"""The result: relevance, the output it explains, and the books."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from relprop.explain.audit import Audit
from relprop.plan import Plan

_SHOWN = 16  # indices of a target that are printed


@dataclass
class Explanation:
    """How much every entry of the input contributed.

    relevance  in the structure of the explained inputs: a tensor for one input, a tuple for several that were given by
               position, else a dict by name (position or keyword). For token ids: relevance at the embedding,
               [batch, tokens, width]
    output     the model's output, detached
    target     what was explained
    audit      where the relevance went
    layers     relevance at the places asked for, by name; a list where one was passed several times
    activations, gradients
               the values there, and the modified gradients: relevance is their product
    reached    for every condition's place, which samples' relevance passed it
    at_output  the explained tensor and the modified gradient there
    leaves     relevance at further leaves, such as position embeddings
    plan       which rule each site got, and why
    """

    relevance: Any
    output: Any
    target: Any
    audit: Audit
    plan: Plan
    layers: dict[str, Any] = field(default_factory=dict)
    leaves: dict[str, Tensor] = field(default_factory=dict)
    inputs: Any = None
    activations: dict[str, Any] = field(default_factory=dict)
    gradients: dict[str, Any] = field(default_factory=dict)
    reached: dict[str, Tensor] = field(default_factory=dict)
    at_output: tuple[Tensor, Tensor] | None = field(default=None, repr=False)

    @property
    def explained(self) -> Tensor:
        """Relevance at the output, one sum a sample: with seed="value" the explained values."""
        assert self.at_output is not None
        values, g = self.at_output
        relevance = values * g
        relevance = relevance.real if relevance.is_complex() else relevance
        return relevance.flatten(1).sum(1) if relevance.ndim > 1 else relevance

    def per_token(self) -> Any:
        """Relevance of tokens: summed over the embedding's width."""
        if isinstance(self.relevance, dict):
            return {k: v.sum(-1) for k, v in self.relevance.items()}
        if isinstance(self.relevance, tuple):
            return tuple(v.sum(-1) for v in self.relevance)
        return self.relevance.sum(-1)

    def show(self, **options: Any) -> Any:
        """Draw it: in a notebook, or in a window.

        options  those of `save`
        """
        from relprop import render

        return render.show(self, **options)

    def save(self, path: str | Path, **options: Any) -> Path:
        """Draw it into a file: .png, .svg, .pdf.

        image    what was explained, in its own units, to draw it on: a photograph as it looked before it was
                 normalised, a signal, a volume, the values of features. Of a batch: a list, one for each
        kind     "image", "signal", "volume", "bars" or "tokens"; by default told by the number of axes
        which    of several explained inputs, the one to draw: its position (1) or path ("mask", "[1]")
        sample   of a batch, the one to draw; images are drawn all, up to 12
        title    above it; by default the target
        colours  "relevance" or another palette of `relprop.render`
        percentile, limit
                 where the scale ends: at this percentile of the strengths (99.5), or at this value
        for images  reduce ("sum"), smooth, contours, over (True: drawn over the image), opacity, photo_title, caption,
                    columns, shared_scale: see `relprop.render.grid`
        for others  those of `relprop.render.signal`, `relprop.render.slices` and `relprop.render.bars`

        Raises `InputError` for an option that the drawing does not have, with the nearest ones.
        """
        from relprop import render

        return render.save(self, path, **options)

    def to_html(self, path: str | Path, **options: Any) -> Path:
        """Write a self-contained page, .html.

        image, kind, which, sample, reduce, colours, percentile, smooth  as in `save`
        title, subtitle  at the head
        names     of the output's classes
        tokens    what was explained as words, one for each row of the relevance
        features  names for the relevance of a table's row
        settings  more to list beside the versions, a dict
        command   the line that makes this page again, to be copied

        `relprop.render.to_html` writes several explanations into one page.
        """
        from relprop import render

        return render.to_html(self, path, **options)

    def _repr_html_(self) -> str:
        from relprop.render import notebook

        return notebook.explanation(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))

    def __repr__(self) -> str:
        """One line: a console that shows a result, or a list of them, shows no tensors."""
        return f"Explanation(target={_plain(self.target)}, {self.plan.composite}, relevance {_shapes(self.relevance)})"

    def __str__(self) -> str:
        return f"Explanation of target {_plain(self.target)} by {self.plan.composite}\n{self.audit}"


def _plain(target: Any) -> Any:
    """A target in words: indices as they are, a mask or a relevance by its shape."""
    if not isinstance(target, Tensor):
        return target
    if target.dtype == torch.bool or target.is_floating_point() or target.is_complex() or target.numel() > _SHOWN:
        return f"a tensor {tuple(target.shape)}"
    return target.tolist()


def _shapes(relevance: Any) -> str:
    if isinstance(relevance, Mapping):
        return ", ".join(f"{name} {_shapes(part)}" for name, part in relevance.items())
    if isinstance(relevance, (tuple, list)):
        return ", ".join(_shapes(part) for part in relevance)
    return str(tuple(relevance.shape)) if isinstance(relevance, Tensor) else type(relevance).__name__
