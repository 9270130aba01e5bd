"""Set-up shared by all tests: seeds, threads, and torchvision beside a torch it was not compiled for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.support.vision import declare_torchvision_operators

declare_torchvision_operators()  # before anything imports torchvision: zennit, timm and transformers do
torch.set_num_threads(1)  # the tests are small and run in several processes


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Each test starts from the same random state, whatever ran before it."""
    torch.manual_seed(0)
    yield
