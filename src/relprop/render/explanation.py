"""An explanation as a picture: which drawing suits the shape of what was explained."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from relprop.errors import InputError, nearest
from relprop.extras import require
from relprop.render import figure as figures
from relprop.render import row as rows
from relprop.render import signal as signals
from relprop.render import volume as volumes
from relprop.render.figure import check_path, pixels, save_figure
from relprop.render.files import png_bytes

Kind = Literal["image", "signal", "volume", "bars", "tokens"]
KINDS: tuple[str, ...] = ("image", "signal", "volume", "bars", "tokens")
# What draws each, and by which name it takes what was explained.
_DRAWINGS: dict[str, tuple[Callable[..., Any], str]] = {
    "tokens": (signals.signal, "values"),
    "signal": (signals.signal, "values"),
    "volume": (volumes.slices, "body"),
    "bars": (rows.bars, "values"),
}
_MOST_SAMPLES = 12
_BY_AXES: dict[int, Kind] = {1: "bars", 2: "bars", 3: "signal", 4: "image", 5: "volume"}


def tensors(structure: Any, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a nested structure with their paths, in order."""
    if isinstance(structure, torch.Tensor):
        yield path, structure
    elif isinstance(structure, Mapping):
        for key, value in structure.items():
            yield from tensors(value, f"{path}.{key}" if path else str(key))
    elif isinstance(structure, (list, tuple)):
        for index, value in enumerate(structure):
            yield from tensors(value, f"{path}[{index}]")


def picture(
    explanation: Any,
    path: str | Path | None = None,
    image: Any = None,
    *,
    kind: Kind | None = None,
    which: str | int | None = None,
    sample: int | None = None,
    title: str | None = None,
    **options: Any,
) -> Any:
    """Draw an explanation.

    Args:
        explanation: what `LRP.explain` returned, or relevance itself.
        path: where to save it, as .png, .svg or .pdf; its folder must be there.
        image: what was explained, in its own units: a photograph as it looked before it was normalised, a
            signal, a volume, the values of features. A batch takes a list of them or one array with a first
            axis of samples.
        kind: ``image``, ``signal``, ``volume``, ``bars`` or ``tokens``; by default from the number of axes:
            [N, C, H, W] is an image, [N, C, T] a signal, [N, C, D, H, W] a volume, [N, F] bars. ``tokens``
            are embeddings [N, T, D], summed over D and drawn as a signal; so is, by itself, what the model
            embedded of ids [N, T].
        which: of several explained inputs, the one to draw: by its position ``1`` or its path, as ``"[1]"``,
            ``"mask"``, ``"pair[0]"``; by default the first that has most axes.
        sample: of a batch, the one to draw; images are drawn all of them, up to 12.
        title: above it; by default what was explained.
        options: go to `grid`, `signal`, `slices` or `bars`.

    Returns:
        A matplotlib Figure.
    """
    destination = None if path is None else check_path(path)
    name, relevance = choose_input(getattr(explanation, "relevance", explanation), which)
    kind = kind or ("tokens" if _of_ids(explanation, relevance) else _BY_AXES.get(relevance.ndim))
    if kind not in KINDS:
        raise InputError(
            f"no picture is known for relevance of shape {tuple(relevance.shape)}: give kind=, one of "
            f"{', '.join(KINDS)}"
        )
    title = _title(explanation, name) if title is None else title
    if kind == "image":
        drawn = _image(explanation, relevance, image, sample, title, options)
    else:
        one, values, note = _one_sample(relevance, image, sample)
        title = " · ".join(part for part in (title, note) if part)
        draw, ground = _DRAWINGS[kind]
        _check_options(draw, options, ground)
        drawn = draw(one.sum(-1) if kind == "tokens" else one, **{ground: values}, title=title, **options)
    if destination is not None:
        save_figure(drawn, destination)
    return drawn


def save(drawn: Any, path: str | Path, **options: Any) -> Path:
    """Write a figure, or draw an explanation into a file: .png, .svg or .pdf.

    Args:
        drawn: a figure of this package, or what `picture` takes; then `options` are those of `picture`.
        path: its folder must be there.
    """
    if hasattr(drawn, "savefig"):
        return save_figure(drawn, path)
    picture(drawn, path, **options)
    return Path(path)


def show(explanation: Any, image: Any = None, **options: Any) -> None:
    """Show an explanation: in a notebook below the cell, elsewhere in the system's picture viewer."""
    drawn = pixels(picture(explanation, image=image, **options))
    if _in_notebook():
        display = require("IPython.display", "render", "showing a picture in a notebook")
        # As a file: a notebook draws a figure by itself only where pyplot was imported.
        display.display(display.Image(data=png_bytes(drawn), width=round(drawn.shape[1] / 1.5)))
    else:
        require("PIL.Image", "render", "showing a picture").fromarray(drawn).show()


def _in_notebook() -> bool:
    """Whether a notebook's kernel runs this code; IPython is asked only where it is loaded already."""
    import sys

    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    # By name, for a kernel's shell may be a subclass of its own.
    return any(one.__name__ == "ZMQInteractiveShell" for one in type(shell).__mro__)


def choose_input(structure: Any, which: str | int | None) -> tuple[str, torch.Tensor]:
    """Of several explained inputs the one to draw: the one named, or the first that has most axes."""
    if not isinstance(structure, (torch.Tensor, Mapping, list, tuple)):
        structure = torch.as_tensor(structure)
    found = list(tensors(structure))
    if not found:
        raise InputError("there is no relevance to draw")
    if which is not None:
        named = dict(found)
        for name in (str(which), f"[{which}]", str(which).strip("[]")):  # the books name it by its bare number
            if name in named:
                return name, named[name]
        raise InputError(f"no explained input {which!r}; there are {', '.join(repr(name) for name, _ in found)}")
    return max(found, key=lambda item: item[1].ndim)


def _of_ids(explanation: Any, relevance: torch.Tensor) -> bool:
    """Whether the relevance is at embeddings of ids that were explained."""
    given = tensors(getattr(explanation, "inputs", None))
    return relevance.ndim == 3 and any(
        not ids.is_floating_point() and ids.shape == relevance.shape[:2] for _, ids in given
    )


def target_text(explanation: Any) -> str:
    """What was explained, in words, where it is an output by its index."""
    target = getattr(explanation, "target", None)
    if isinstance(target, torch.Tensor) and target.numel() == 1 and not target.is_floating_point():
        target = int(target)
    return f"target {target}" if isinstance(target, (int, tuple)) and not isinstance(target, bool) else ""


def _title(explanation: Any, name: str) -> str:
    return " · ".join(part for part in (name, target_text(explanation)) if part)


def _image(
    explanation: Any,
    relevance: torch.Tensor,
    image: Any,
    sample: int | None,
    title: str,
    options: dict[str, Any],
) -> Any:
    _check_options(figures.grid, options, "relevances", "titles", "photo")
    if relevance.ndim in (2, 3):
        relevance = relevance[None]
    if relevance.ndim == 4 and sample is not None:
        relevance, image = _pick(relevance, image, sample)
    if relevance.ndim == 4 and len(relevance) > 1:
        count = len(relevance)
        titles = [f"sample {i}{_sample_target(explanation, i)}" for i in range(count)]
        photos = image if image is None or isinstance(image, (list, tuple)) else list(image)
        if photos is not None and len(photos) != count:
            given = f"{len(photos)} images" if photos is image else f"image of shape {tuple(image.shape)}"
            raise InputError(
                f"{count} samples of shape {tuple(relevance.shape[1:])} were explained, but {given} given: give one "
                "for each, in a list or along a first axis"
            )
        if count > _MOST_SAMPLES:
            title = f"{title} the first {_MOST_SAMPLES} of {count} samples".strip()
            relevance, titles = relevance[:_MOST_SAMPLES], titles[:_MOST_SAMPLES]
            photos = None if photos is None else photos[:_MOST_SAMPLES]
        return figures.grid(list(relevance), titles, photo=photos, **{"caption": title, **options})
    photo = image[0] if isinstance(image, (list, tuple)) and len(image) == 1 else image
    return figures.grid(relevance, [title], photo=photo, **options)


def _check_options(draw: Callable[..., Any], options: dict[str, Any], *taken: str) -> None:
    """Whether a drawing knows these options; those given by other names are not among them."""
    known = [name for name in inspect.signature(draw).parameters if name not in (*taken, "relevance", "title")]
    for name in options:
        if name not in known:
            raise InputError(f"no option {name!r}{nearest(name, known, listed=len(known))}")


def _sample_target(explanation: Any, index: int) -> str:
    target = getattr(explanation, "target", None)
    if isinstance(target, torch.Tensor) and target.ndim == 1 and not target.is_floating_point():
        return f" · target {int(target[index])}" if index < len(target) else ""
    return ""


def _one_sample(relevance: torch.Tensor, image: Any, sample: int | None) -> tuple[torch.Tensor, Any, str]:
    if relevance.ndim == 1:
        return relevance, image, ""
    count = len(relevance)
    one, values = _pick(relevance, image, sample or 0)
    return (
        one[0],
        None if values is None else values[0],
        f"sample {sample or 0} of {count}" if count > 1 else "",
    )


def _pick(relevance: torch.Tensor, image: Any, sample: int) -> tuple[torch.Tensor, Any]:
    """One sample of a batch, with its batch axis, and what belongs to it in a list of one."""
    count = len(relevance)
    if not -count <= sample < count:
        raise InputError(f"sample {sample} is out of range: there are {count}")
    if image is not None:
        batched = isinstance(image, (list, tuple)) or getattr(image, "ndim", 0) == relevance.ndim
        if batched and len(image) != count:
            raise InputError(f"{count} samples were explained, but {len(image)} were given to draw them on")
        if batched:
            image = [image[sample]]
        elif count == 1:
            image = [image]
        else:
            raise InputError(f"{count} samples were explained: give as many to draw them on, in a list")
    return relevance[sample : sample + 1 or None], image
