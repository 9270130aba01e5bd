"""From the options of a command to what it works on, checked by cost: words, files, network, target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from relprop.cli.words import parse_preset, parse_row
from relprop.composite import Composite
from relprop.errors import InputError
from relprop.explain import LRP
from relprop.explain.choose import choose
from relprop.models import LoadedModel, find_class, load_model, read_photo
from relprop.models.photos import Photo
from relprop.presets import EpsilonGammaBox

DEFAULT_MODEL = "efficientnet-lite0"


@dataclass(frozen=True)
class Subject:
    """A network and the photograph to look at.

    The photograph as the network sees it, and the network's input.
    """

    loaded: LoadedModel
    view: Photo
    x: Tensor


@dataclass(frozen=True)
class Rules:
    """What was asked for as rules: presets by name, and rows that go before those of every preset.

    Both are read before anything else is done, so that a typing error costs nothing.
    """

    presets: tuple[tuple[str, Composite], ...] = ()
    rows: tuple[Any, ...] = ()

    @classmethod
    def read(cls, presets: Sequence[str], rows: Sequence[str]) -> Rules:
        """From the command line's words."""
        named = tuple((text, parse_preset(text)) for text in presets)
        return cls(named, tuple(parse_row(text) for text in rows))

    def composites(self, subject: Subject) -> list[tuple[str, Composite]]:
        """The composites with their names.

        Without a preset the one that suits the network is taken, as `LRP(model)` does; a z-box without bounds
        gets those of the network's input.
        """
        presets, preprocess = self.presets, subject.loaded.preprocess
        if not presets:
            suited, _ = choose(LRP(subject.loaded.model, Composite()).plan(subject.x))
            presets = ((suited.name.removesuffix("()"), suited),)
        result = []
        for text, preset in presets:
            name = text.strip()
            if name in ("EpsilonGammaBox", "EpsilonGammaBox()"):
                low, high = _bound(preprocess.low), _bound(preprocess.high)
                preset = EpsilonGammaBox(low=low, high=high)
            if self.rows:
                rows = len(self.rows)
                name = f"{name} after {rows} given rule{'s' if rows > 1 else ''}"
                combined = Composite([*self.rows, *preset.rows], name=name)
                combined.reading = preset.reading
                preset = combined
            result.append((name, preset))
        return result


def _bound(values: Tensor) -> float | Tensor:
    """One number where all channels have the same, which prints better."""
    return float(values.flatten()[0]) if bool((values == values.flatten()[0]).all()) else values


def prepare(
    photo: str | None,
    model: str,
    weights: str | None,
    *,
    size: int | None = None,
    classes: str | None = None,
) -> Subject:
    """Read the photograph, then the class names, then the network.

    Without a photograph the network gets a grey one, for a plan needs shapes only.
    """
    pixels = None if photo is None else read_photo(photo)
    names = None if classes is None else _read_names(classes)
    loaded = load_model(model, weights)
    preprocess = loaded.preprocess
    if size is not None:
        resize = max(size, round(size * preprocess.resize / preprocess.crop))
        preprocess = replace(preprocess, resize=resize, crop=size)
    loaded = replace(loaded, preprocess=preprocess, names=loaded.names if names is None else names)
    return look_at(pixels, loaded)


def look_at(pixels: Photo | None, loaded: LoadedModel) -> Subject:
    """A photograph (or a grey one) before a network."""
    if pixels is None:
        pixels = np.full((loaded.preprocess.crop, loaded.preprocess.crop, 3), 127, np.uint8)
    return Subject(loaded, loaded.preprocess.view(pixels), loaded.preprocess(pixels))


def _read_names(path: str) -> tuple[str, ...]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"class names cannot be read from {path}: {error}") from error
    names = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not names:
        raise InputError(f"{path} holds no class names: write one a line, in the order of the output units")
    return names


def logits(subject: Subject) -> Tensor:
    """The network's output for the photograph, [classes].

    Raises:
        InputError: where it cannot take the photograph, or its output is not one row of classes.
    """
    model = subject.loaded.model
    try:
        with torch.no_grad():
            output = model(subject.x)
    except Exception as error:
        shape = tuple(subject.x.shape)
        raise InputError(
            f"the network cannot take an input of shape {shape}: {type(error).__name__}: {error}"
        ) from error
    if isinstance(output, Tensor) and output.ndim == 2 and output.shape[0] == 1 and output.is_floating_point():
        return output[0]
    seen = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise InputError(f"the network's output is {seen}, not one row of classes: explain it from Python")


def choose_target(wanted: str | None, scores: Tensor, names: Sequence[str]) -> int:
    """The class to explain; by default the strongest."""
    if wanted is None:
        return int(scores.argmax())
    count = scores.numel()
    return find_class(wanted, names if len(names) == count else (), count=count)


def class_name(index: int, names: Sequence[str]) -> str:
    """A class as people write it."""
    return names[index] if index < len(names) else f"class {index}"


def top(scores: Tensor, names: Sequence[str], count: int = 5) -> list[tuple[int, str, float]]:
    """The strongest classes: index, name, probability."""
    shares = scores.softmax(-1)
    best = shares.topk(min(count, shares.numel()))
    named = names if len(names) == shares.numel() else ()
    return [(i, class_name(i, named), p) for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)]
