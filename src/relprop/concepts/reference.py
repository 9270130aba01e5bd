"""Reference samples: what a concept stands for, told by the samples of a data set in which it counts most.

The most relevant ones (relevance maximisation) show what the model uses the concept for; the most active ones
(activation maximisation) what it reacts to. [Achtibat et al. 2023, section "relevance maximization"]
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from relprop.concepts.crp import by_unit
from relprop.concepts.pruning import _split, _target
from relprop.errors import InputError
from relprop.explain import LRP, Explanation, check_lrp
from relprop.extras import require
from relprop.progress import track
from relprop.units import Channels, Units, as_units

By = Literal["relevance", "activation"]
Fetch = Callable[[int], Any]
_FORMATS = (".npz", ".safetensors")
_DIMMED = 0.35  # what is left of the brightness of pixels outside the region


class Crop(NamedTuple):
    """A part of a sample that a concept reads, as (top, bottom, left, right), half-open, and its map [H, W]."""

    sample: int
    box: tuple[int, int, int, int]
    relevance: npt.NDArray[np.float64]


@dataclass(frozen=True)
class References:
    """The samples in which each unit of a layer counts most, the strongest first.

    layer    the place
    by       "relevance" or "activation"
    values   [units, count], the unit's sum in the sample
    samples  [units, count], the number of the sample in the data set, in the order in which it came
    seen     how many samples there were
    """

    layer: str
    by: By
    values: Tensor
    samples: Tensor
    seen: int

    def of(self, unit: int) -> list[tuple[int, float]]:
        """(sample, value) of one unit, without samples in which it has no part."""
        if not -len(self.values) <= unit < len(self.values):
            raise InputError(f"unit {unit} is out of range: {self.layer} has {len(self.values)}")
        pairs = zip(self.samples[unit].tolist(), self.values[unit].tolist(), strict=True)
        return [(i, v) for i, v in pairs if v != 0]

    def save(self, path: str | Path) -> Path:
        """Write it as .npz or .safetensors."""
        from relprop.render.files import write_atomically

        path = _checked(path)
        about = {"layer": self.layer, "by": self.by, "seen": str(self.seen)}
        if path.suffix == ".npz":
            buffer = io.BytesIO()
            np.savez(
                buffer, values=self.values.numpy(), samples=self.samples.numpy(), about=np.array(json.dumps(about))
            )
            return write_atomically(path, buffer.getvalue())
        torch_files = require("safetensors.torch", "concepts", "a .safetensors file")
        content: bytes = torch_files.save({"values": self.values, "samples": self.samples}, metadata=about)
        return write_atomically(path, content)

    @staticmethod
    def load(path: str | Path) -> References:
        """Read what `save` wrote."""
        path = _checked(path)
        if not path.is_file():
            raise InputError(f"there is no file {path}")
        try:
            about, values, samples = _arrays(path) if path.suffix == ".npz" else _tensors(path)
            by: By = "activation" if about["by"] == "activation" else "relevance"
            return References(about["layer"], by, values, samples, int(about["seen"]))
        except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} holds no reference samples: {error}") from error

    def crops(
        self,
        lrp: LRP,
        fetch: Fetch,
        unit: int,
        *,
        units: Any = None,
        count: int = 6,
        target: Any = "label",
        smooth: float = 4.0,
        share: float = 0.2,
        **options: Any,
    ) -> list[Crop]:
        """Where in its reference samples a concept lies: the box around its conditional relevance.

        fetch   from a sample's number to (input, label), or the input alone, [C, H, W]
        units   how the layer is divided, as when the samples were found
        smooth  the map is smoothed by a Gaussian of so many pixels
        share   what has more than this share of the smoothed map's maximum of absolute relevance lies inside
        options of `LRP.explain`
        """
        divided = Channels() if units is None else as_units(units)
        found = []
        for sample, _ in self.of(unit)[:count]:
            x, labels = _split(fetch(sample))
            labels = None if labels is None else torch.as_tensor(labels).reshape(1)
            e = lrp.explain(
                x[None], target=_target(target, labels), conditions={self.layer: divided.at(unit)}, **options
            )
            found.append(_crop(sample, e.relevance[0], smooth, share))
        return found

    def picture(
        self,
        lrp: LRP,
        fetch: Fetch,
        chosen: Sequence[int],
        *,
        view: Fetch | None = None,
        count: int = 6,
        share: float = 0.2,
        **options: Any,
    ) -> Any:
        """A line for each unit with its reference samples, cut to where it looks; what lies outside is dimmed.

        chosen   units
        view     from a sample's number to the photograph as it looked, [H, W, 3] of the input's size; by default the
                 input itself, scaled to its own range
        options  of `crops`

        Returns:
            A matplotlib Figure.
        """
        from relprop.render.figure import new_figure, panel
        from relprop.render.heatmap import as_photo

        if not chosen or count < 1:
            raise InputError("name at least one unit and one sample of each")
        figure = new_figure(1.35 * count + 0.9, 1.55 * len(chosen) + 0.35)
        axes = figure.subplots(len(chosen), count, squeeze=False)
        for line, unit in zip(axes, chosen, strict=True):
            crops = self.crops(lrp, fetch, unit, count=count, share=share, **options)
            for axis in line[len(crops) :]:
                axis.set_axis_off()
            for axis, crop, (_, value) in zip(line, crops, self.of(unit), strict=False):
                photo = as_photo(_own_range(_split(fetch(crop.sample))[0]) if view is None else view(crop.sample))
                panel(axis, _shown(photo, crop, share), "", f"#{crop.sample}  {value:+.3g}")
            if crops:
                line[0].set_ylabel(f"unit {unit}", fontsize=8)
        figure.suptitle(f"{self.layer}: most by {self.by}, of {self.seen} samples", fontsize=9)
        return figure


def reference_samples(
    lrp: LRP,
    data: Iterable[Any],
    layer: str,
    *,
    by: By = "relevance",
    units: Any = None,
    count: int = 8,
    target: Any = "label",
    normalise: bool = False,
    **options: Any,
) -> References:
    """The `count` samples of a data set in which each unit of a layer counts most.

    data       batches: (x, labels), or x alone; x a tensor, or a dict of keywords. One batch is held at a time
    layer      a place that names one tensor
    by         "relevance" to the target, or "activation": the sum of the unit's values
    units      how the layer is divided, channels if nothing is said
    target     "label": each sample's label; "predicted": the arg max; anything else as for `LRP.explain`
    normalise  divide by the sum of the absolute values of all units in the sample, so that every sample counts alike
    options    of `LRP.explain`

    Ties go to the sample that came first, so the result depends on no order of units or batches.

    Raises:
        InputError: for no data, or batches without labels where they are the target.
    """
    check_lrp(lrp, "reference_samples")
    if by not in ("relevance", "activation"):
        raise InputError(f'by must be "relevance" or "activation", got {by!r}')
    if type(count) is not int or count < 1:
        raise InputError(f"count must be a positive integer, got {count!r}")
    divided = Channels() if units is None else as_units(units)
    values: Any = None
    samples: Any = None
    seen = 0
    for batch in track(data, len(data) if isinstance(data, Sized) else 0, "reading samples"):
        x, labels = _split(batch)
        args, kwargs = ((), dict(x)) if isinstance(x, Mapping) else ((x,), {})
        wanted = _target(target, labels) if by == "relevance" or labels is not None else _any(target)
        e = lrp.explain(*args, target=wanted, layers=layer, **kwargs, **options)
        scores = by_unit(e, layer, divided) if by == "relevance" else _activity(e, layer, divided)
        scores = scores.detach().double().cpu()
        if normalise:
            scores = scores / scores.abs().sum(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
        numbers = torch.arange(seen, seen + len(scores))[:, None].expand_as(scores)
        seen += len(scores)
        values = scores if values is None else torch.cat([values, scores])
        samples = numbers if samples is None else torch.cat([samples, numbers])
        best = values.argsort(dim=0, descending=True, stable=True)[:count]
        values, samples = values.gather(0, best), samples.gather(0, best)
    if values is None:
        raise InputError("there is no data to take reference samples from")
    return References(layer, by, values.T.contiguous(), samples.T.contiguous(), seen)


def _any(target: Any) -> Any:
    """The activations are the same whatever is explained."""
    return None if isinstance(target, str) else target


def _activity(e: Explanation, layer: str, units: Units) -> Tensor:
    values = e.activations[layer]
    if not isinstance(values, Tensor):
        raise InputError(f"{layer!r} is no single tensor that passes once: name an operation or a module below it")
    return units.activity(values)


def _crop(sample: int, relevance: Tensor, smooth: float, share: float) -> Crop:
    from relprop.render.heatmap import smooth_values
    from relprop.render.scale import spatial

    values = smooth_values(np.abs(spatial(relevance)), smooth)
    inside = values > share * values.max()
    if not inside.any():
        return Crop(sample, (0, values.shape[0], 0, values.shape[1]), values)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    return Crop(sample, _square(rows[0], rows[-1] + 1, columns[0], columns[-1] + 1, *values.shape), values)


def _square(top: int, bottom: int, left: int, right: int, height: int, width: int) -> tuple[int, int, int, int]:
    """The box made square about its centre, within the picture."""
    side = max(bottom - top, right - left)
    edges = []
    for low, high, size in ((top, bottom, height), (left, right, width)):
        start = math.floor((low + high - side) / 2)
        start = max(0, min(start, size - side))
        edges += [start, min(start + side, size)]
    return edges[0], edges[1], edges[2], edges[3]


def _shown(photo: npt.NDArray[np.uint8], crop: Crop, share: float) -> npt.NDArray[np.uint8]:
    if photo.shape[:2] != crop.relevance.shape:
        raise InputError(f"sample {crop.sample}: its photograph {photo.shape[:2]} is not of the size of its map "
                         f"{crop.relevance.shape}")  # fmt: skip
    outside = crop.relevance <= share * crop.relevance.max()
    shown = photo.astype(np.float64)
    shown[outside] *= _DIMMED
    top, bottom, left, right = crop.box
    return shown.round().astype(np.uint8)[top:bottom, left:right]


def _own_range(x: Tensor) -> Tensor:
    low, high = float(x.min()), float(x.max())
    return (x - low) / ((high - low) or 1.0)


def _arrays(path: Path) -> tuple[dict[str, str], Tensor, Tensor]:
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as held:
        about: dict[str, str] = json.loads(str(held["about"]))
        return about, torch.from_numpy(held["values"]), torch.from_numpy(held["samples"])


def _tensors(path: Path) -> tuple[dict[str, str], Tensor, Tensor]:
    files = require("safetensors", "concepts", "a .safetensors file")
    try:
        with files.safe_open(path, "pt") as held:
            return held.metadata(), held.get_tensor("values"), held.get_tensor("samples")
    except files.SafetensorError as error:
        raise ValueError(str(error)) from error


def _checked(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix not in _FORMATS:
        raise InputError(f"{path}: reference samples are kept as {' or '.join(_FORMATS)}")
    return path
