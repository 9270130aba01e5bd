"""Networks by name: the built-in one, torchvision's, timm's, and what a factory in a Python file returns."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from relprop.errors import InputError, nearest
from relprop.extras import require
from relprop.models import efficientnet_lite
from relprop.models.imagenet import class_names
from relprop.models.photos import Preprocess
from relprop.models.weights import fit_state, read_state

BUILT_IN = ("efficientnet-lite0",)


@dataclass(frozen=True)
class LoadedModel:
    """A network with what it takes to feed it a photograph and to name its classes.

    Attributes:
        model: in eval mode.
        preprocess: photograph to input.
        names: class names in the order of the output units; empty where they are not known.
        notes: what a user should know before trusting a result, one sentence each.
    """

    model: nn.Module
    preprocess: Preprocess
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def load_model(spec: str, weights: str | Path | None = None) -> LoadedModel:
    """A network by its name, in eval mode.

    Args:
        spec: ``efficientnet-lite0``, ``torchvision:NAME``, ``timm:NAME``, or ``FILE.py:FACTORY``, where
            FACTORY is called without arguments and returns an `nn.Module`. The file is run, as ``python
            FILE.py`` would.
        weights: a state dict (`relprop.models.weights.read_state`). Without it the built-in network takes its
            published weights, a factory's network keeps the ones it came with, and torchvision's and timm's
            stay random, for nothing is downloaded; a note says so.

    Raises:
        InputError: for an unknown name (with the nearest ones), a file that cannot be run, weights that do
            not fit.
        MissingExtraError: where a package is missing.
    """
    # Weights are read first: they are the likelier mistake, and cheaper than a network.
    state = None if weights is None else read_state(weights)
    if spec in BUILT_IN:
        if state is None:
            built = efficientnet_lite.EfficientNetLite0.pretrained()
        else:
            built = efficientnet_lite.EfficientNetLite0()
            state = efficientnet_lite.from_published(state)
        loaded = LoadedModel(built, efficientnet_lite.PREPROCESS, class_names())
    elif spec.startswith("torchvision:"):
        loaded = _from_torchvision(spec.removeprefix("torchvision:"))
    elif spec.startswith("timm:"):
        loaded = _from_timm(spec.removeprefix("timm:"))
    elif ".py:" in spec or spec.endswith(".py"):
        loaded = _from_file(spec)
    else:
        known = f"{', '.join(BUILT_IN)}, torchvision:NAME, timm:NAME or FILE.py:FACTORY"
        raise InputError(f"unknown model {spec!r}{nearest(spec, BUILT_IN)}; a model is {known}")
    if state is not None:
        fit_state(loaded.model, state, str(weights))
        loaded = replace(loaded, notes=())
    loaded.model.eval()
    return loaded


def _from_torchvision(name: str) -> LoadedModel:
    torchvision = import_torchvision()
    models = torchvision.models
    known = models.list_models(module=models)
    if name not in known:
        raise InputError(f"torchvision has no classification network {name!r}{nearest(name, known)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's own remarks on how random weights are drawn
        model = models.get_model(name, weights=None)
    transforms = models.get_model_weights(name).DEFAULT.transforms()
    preprocess = Preprocess(
        resize=max(transforms.resize_size[0], transforms.crop_size[0]),
        crop=transforms.crop_size[0],
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )
    return LoadedModel(model, preprocess, class_names(), (_random_note(name),))


def _from_timm(name: str) -> LoadedModel:
    import_torchvision()  # timm imports it
    timm = require("timm", "vision", "the model timm:" + name)
    known = timm.list_models()
    if name not in known and not timm.is_model(name):
        raise InputError(f"timm has no network {name!r}{nearest(name, known)}")
    model = timm.create_model(name, pretrained=False)
    config = model.pretrained_cfg
    side = int(config["input_size"][-1])
    preprocess = Preprocess(
        resize=max(side, int(side / (config.get("crop_pct") or 1.0))),
        crop=side,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
    names = class_names() if config.get("num_classes") == 1000 else ()
    return LoadedModel(model, preprocess, names, (_random_note(name),))


def _from_file(spec: str) -> LoadedModel:
    model = from_file(spec)
    if not isinstance(model, nn.Module):
        raise InputError(f"model {spec!r}: {spec.rpartition(':')[2]} returned {type(model).__name__}, not an nn.Module")
    return LoadedModel(model, Preprocess())


def from_file(spec: str) -> Any:
    """What a function in a Python file returns, given as ``FILE.py:FACTORY``; or what stands there, if no function."""
    file, _, factory = spec.rpartition(":") if not spec.endswith(".py") else (spec, "", "")
    path = Path(file)
    if not factory.isidentifier():
        raise InputError(f"model {spec!r}: say which function of {path} builds the network, as {path}:FACTORY")
    if not path.is_file():
        raise InputError(f"model {spec!r}: no such file as {path}")
    module_spec = importlib.util.spec_from_file_location(f"relprop_user_{path.stem}", path.resolve())
    if module_spec is None or module_spec.loader is None:
        raise InputError(f"model {spec!r}: {path} cannot be imported")
    module = importlib.util.module_from_spec(module_spec)
    sys.path.insert(0, str(path.resolve().parent))  # as for `python FILE.py`, so that it finds its neighbours
    try:
        module_spec.loader.exec_module(module)
        if not hasattr(module, factory):
            offered = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
            raise InputError(f"{path} has no {factory!r}{nearest(factory, offered)}")
        found = getattr(module, factory)
        return found() if callable(found) and not isinstance(found, nn.Module) else found
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"model {spec!r}: {path} raised {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.resolve().parent))


def _random_note(name: str) -> str:
    return f"{name} has random weights, so its explanations mean nothing: give trained ones with --weights"


_operators: list[torch.library.Library] = []  # an operator lives as long as the library object that declares it


def import_torchvision() -> ModuleType:
    """Import torchvision, also beside a torch build that it was not compiled for.

    Its compiled operators (detection only) do not load there, and its Python part then fails for want of the
    two that it registers fakes for. Where that is so they are declared, without an implementation.
    """
    try:
        return require("torchvision", "vision", "a torchvision model")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _operators.append(library)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its remark that the image extension does not load either
        return importlib.import_module("torchvision")
