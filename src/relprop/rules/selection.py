"""The rule for a state-space model's selection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from relprop.rules.base import Rule, as_is


@dataclass(frozen=True)
class SelectionConstant(Rule):
    """The input-dependent matrices B and C of a selective scan are constants: the scan is linear in its signal.

    [Jafari et al. 2024, MambaLRP, section 4.2]
    """

    home: ClassVar[tuple[str, ...]] = ("selection",)
    constant_matrices: ClassVar[bool] = True

    def native(self, op: Any) -> Callable[[Tensor], Tensor]:
        return as_is

    def selection(self, op: Any) -> None:
        """Runs natively."""
