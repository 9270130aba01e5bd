"""Conservation: is the sum of relevance what was explained?"""

from __future__ import annotations

import torch
from torch import Tensor

from relprop.errors import InputError
from relprop.explain import Explanation
from relprop.record.tensors import tensors


def relative_conservation_error(relevance: Tensor | Explanation, explained: Tensor | None = None) -> Tensor:
    r"""How far the sum of relevance lies from the explained value, relative to it: lower is better, 0 is perfect.

        | sum_j R_j - f | / | f |

    relevance  [N, ...], and `explained` [N]: the value explained for each sample. Or an explanation alone, which knows
               both, of all its inputs together. What biases, stabilisers and further leaves (position embeddings)
               take counts as missing
    """
    if isinstance(relevance, Explanation):
        if not relevance.audit.conserving:
            raise InputError("a gradient method's map is no relevance: nothing about it is conserved")
        parts = list(tensors(relevance.relevance))
        found = torch.stack([part.double().flatten(1).sum(1) for part in parts]).sum(0)
        wanted = relevance.explained.double()
    else:
        if explained is None or explained.shape != relevance.shape[:1]:
            seen = None if explained is None else tuple(explained.shape)
            raise InputError(f"explained must hold one value for each of {relevance.shape[0]} samples, got {seen}")
        found, wanted = relevance.flatten(1).double().sum(1), explained.double()
    return (found - wanted).abs() / wanted.abs().clamp(min=torch.finfo(torch.float32).tiny)
