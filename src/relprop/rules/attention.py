"""Rules for fused attention: what q, k, v and a mask receive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from relprop.ops.attention import Attention
from relprop.rules.base import Rule


@dataclass(frozen=True)
class BilinearHalf(Rule):
    r"""AttnLRP's attention: half to the values, half through the softmax; of that half each to queries and keys.

    Native gradients times 1/2 (v), 1/4 (q, k), 1/2 (a mask that depends on the input). The share of a factor that
    is constant goes to the others. The softmax does not conserve (the audit's excess).
    [Achtibat et al. 2024, Prop. 3.1 and 3.3]
    """

    home: ClassVar[tuple[str, ...]] = ("attention",)

    def attention(self, op: Attention) -> dict[str, float]:
        roles = op.roles
        scores = any(r in roles for r in ("q", "k", "mask"))
        half = 0.5 if "v" in roles and scores else 1.0
        pair = 0.5 if "q" in roles and "k" in roles else 1.0
        return {"v": half, "q": half * pair, "k": half * pair, "mask": half}


@dataclass(frozen=True)
class ValueOnly(Rule):
    """CP-LRP's attention: the attention weights are constants, so the values get everything. Conserves.

    [Ali et al. 2022, section 3.2, the AH rule]
    """

    home: ClassVar[tuple[str, ...]] = ("attention",)

    def attention(self, op: Attention) -> dict[str, float]:
        return {"v": 1.0}


@dataclass(frozen=True)
class AttentionGradient(Rule):
    """The kernel's own gradients, unscaled: gradient times input. Not conserving."""

    home: ClassVar[tuple[str, ...]] = ("attention",)

    def attention(self, op: Attention) -> dict[str, float]:
        return dict.fromkeys(op.roles, 1.0)
