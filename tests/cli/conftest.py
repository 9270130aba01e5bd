"""A small network in a file, a photograph on disk, and the command run in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

pytest.importorskip("click", reason="the command needs click")
image = pytest.importorskip("PIL.Image", reason="the command needs pillow")

from relprop.cli import main  # noqa: E402 (after the checks for what it needs)

NETWORK = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )

ready = make()

def broken():
    raise KeyError("settings")

def number():
    return 7

class Two(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)), x

class Picky(nn.Module):
    def forward(self, x):
        return x.reshape(5, -1)
"""


class Said(NamedTuple):
    """What a run of the command came to."""

    code: int
    out: str
    err: str


@pytest.fixture
def relprop(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run the command as a user would, in this process."""

    def run(*arguments: object) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Said(int(stopped.value.code or 0), out, err)

    return run


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A Python file with factories."""
    path = tmp_path / "net.py"
    path.write_text(NETWORK)
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photograph of 40 x 30 pixels."""
    path = tmp_path / "photo.png"
    rows, columns = np.indices((30, 40))
    colours = np.stack([rows * 8, columns * 6, (rows + columns) * 3], -1).astype(np.uint8)
    image.fromarray(colours).save(path)
    return path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights for the network in the file."""
    torch.manual_seed(5)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.ReLU(),
        torch.nn.Identity(),
        torch.nn.Identity(),
        torch.nn.Linear(16, 3),
    )
    path = tmp_path / "weights.pt"
    torch.save(model.state_dict(), path)
    return path
