"""State dicts from files: safetensors, or torch's own format with ``weights_only=True``; never a pickle."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from relprop.errors import InputError
from relprop.extras import require

_SHOWN = 5
# Where training scripts put the state dict inside what they save.
_NESTED = ("state_dict", "model_state_dict", "model", "module", "net", "weights")


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict without running anything of the file.

    Raises:
        InputError: where there is no such file, or it holds more than tensors.
        MissingExtraError: for a ``.safetensors`` file where safetensors is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no weights at {path}: no such file")
    if path.suffix == ".safetensors":
        safetensors = require("safetensors.torch", "cli", "reading .safetensors weights")
        try:
            return dict(safetensors.load_file(str(path)))
        except Exception as error:  # the package's own error class is not public
            raise InputError(f"{path} cannot be read as safetensors: {_first_line(error)}") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on odd files, which end as errors below
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} cannot be read as a state dict of tensors: it is damaged, or holds Python objects, and "
            f"loading "
            "those would run code from the file. Save the weights alone: torch.save(model.state_dict(), "
            "FILE), or as "
            "safetensors"
        ) from error
    except Exception as error:  # a file of another kind ends in whatever the reader stumbles over
        raise InputError(f"{path} cannot be read as a state dict: {_first_line(error)}") from error
    return _unwrap(loaded, path)


def fit_state(model: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Load a state dict where it fits the model exactly; otherwise change nothing.

    Raises:
        InputError: names the keys that are missing, those that the model does not have, and shapes that
            differ.
    """
    own = model.state_dict()
    if state and all(key.startswith("module.") for key in state) and not any(k.startswith("module.") for k in own):
        state = {key.removeprefix("module."): value for key, value in state.items()}  # saved by DataParallel
    # A counter that old files lack and inference never reads.
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{key} is {tuple(value.shape)} in the file, {tuple(own[key].shape)} in the model"
        for key, value in state.items()
        if key in own and value.shape != own[key].shape
    ]
    complaints = [
        f"{label} {len(keys)} key{'s' if len(keys) > 1 else ''}: {_listed(keys)}"
        for label, keys in (("missing", missing), ("unexpected", unexpected), ("other shape for", shapes))
        if keys
    ]
    if complaints:
        raise InputError(f"the weights in {source} do not fit {type(model).__name__}; " + "; ".join(complaints))
    model.load_state_dict({**own, **state})


def _unwrap(loaded: Any, path: Path) -> dict[str, Tensor]:
    for _ in range(2):
        if isinstance(loaded, Mapping) and loaded and all(isinstance(v, Tensor) for v in loaded.values()):
            return {str(key): value for key, value in loaded.items()}
        inner = next((loaded[k] for k in _NESTED if isinstance(loaded, Mapping) and k in loaded), None)
        if inner is None:
            break
        loaded = inner
    raise InputError(f"{path} holds no state dict (a mapping of names to tensors), but {type(loaded).__name__}")


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
