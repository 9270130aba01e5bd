"""Optuna's study: in memory, or on file, where it can go on after an interruption."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from relprop.errors import InputError
from relprop.extras import require

NAME = "relprop"


def optuna() -> Any:
    return require("optuna", "tune", "relprop.tune")


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna's log without its line for every trial, and as it was afterwards."""
    log = optuna().logging
    before = log.get_verbosity()
    log.set_verbosity(log.ERROR)
    try:
        yield
    finally:
        log.set_verbosity(before)


def open_study(path: str | Path | None, direction: str, seed: int, held_to: dict[str, str]) -> Any:
    """A new study, or the one in a file if it was made for the same model, metric, space and data.

    The file is a journal: every trial is in it as soon as it is done.

    Raises:
        InputError: where the file is no study, or one of another model, metric, space or data.
    """
    package = optuna()
    storage = None
    if path is not None:
        if "://" in str(path):
            raise InputError(f"study must be the path of a file, not the address of a database: {path}")
        path = Path(path)
        if path.is_dir() or not path.parent.is_dir():
            raise InputError(f"study {path}: {'that is a folder' if path.is_dir() else 'there is no such folder'}")
        _check_journal(path)
        storage = package.storages.JournalStorage(package.storages.journal.JournalFileBackend(str(path)))
    with quiet():
        study = package.create_study(storage=storage, study_name=NAME, direction=direction, load_if_exists=True)
    study.sampler = package.samplers.TPESampler(seed=seed + len(study.trials))  # or it would begin again with its first
    known = study.user_attrs
    if not known:
        for key, value in held_to.items():
            study.set_user_attr(key, value)
        return study
    for key, value in held_to.items():
        if known.get(key) != value:
            shown = "" if key in ("model", "data") else f": {known.get(key)!r}, now it is {value!r}"
            raise InputError(f"study {path} was made for another {key}{shown}. Give another file, or the same {key}")
    return study


def _check_journal(path: Path) -> None:
    """Whether a file that is there looks like a journal of Optuna: one JSON object a line."""
    if not path.exists() or path.stat().st_size == 0:
        return
    try:
        with path.open(encoding="utf-8") as opened:
            first = json.loads(opened.readline())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        first = None
    if not (isinstance(first, dict) and "op_code" in first):
        raise InputError(f"study {path}: the file is no study of relprop.tune; it was left as it is")


def fingerprint(model: nn.Module) -> str:
    """Tells one model from another: its classes, and of what it holds the shapes and values (of large tensors some)."""
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        digest.update(f"{name}:{type(module).__name__};".encode())
    for name, tensor in sorted(model.state_dict().items()):
        if not hasattr(tensor, "shape"):
            continue
        step = max(1, tensor.numel() // 65536)
        some = tensor.detach().reshape(-1)[::step].double().cpu().numpy().tobytes()
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype};".encode() + some)
    return digest.hexdigest()


def data_fingerprint(batches: Sequence[tuple[Tensor, Tensor]]) -> str:
    """Tells one set of samples with targets from another, in whatever order and batches they come."""
    samples = [
        hashlib.sha256(one.detach().cpu().contiguous().numpy().tobytes() + str(int(label)).encode()).digest()
        for x, target in batches
        for one, label in zip(x.double(), target, strict=True)
    ]
    return hashlib.sha256(b"".join(sorted(samples))).hexdigest()
