"""Set-up shared by all tests: seeds, threads, and torchvision beside a torch build it was not compiled for."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest
import torch


def _declare_torchvision_operators() -> list[torch.library.Library]:
    """Declare the two operators torchvision registers fakes for at import.

    torchvision's compiled part does not load beside a torch it was not built for, and its Python part then fails at
    import for want of these two. Nothing here calls them.
    """
    if importlib.util.find_spec("torchvision") is None:
        return []
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return [library]  # the operators live as long as the library object


_LIBRARIES = _declare_torchvision_operators()


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Each test starts from the same random state, whatever ran before it."""
    torch.manual_seed(0)
    yield
