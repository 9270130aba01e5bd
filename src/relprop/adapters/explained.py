"""The explained value of every sample, which completeness is measured against."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from relprop.explain import Explanation


def explained_values(found: Explanation, selected: Tensor, single: Callable[[int], Explanation]) -> Tensor:
    """One value for each sample of an explanation.

    selected  the output's entries that were asked for, [N]
    single    explains sample i alone

    The two differ where the model ends in a softmax or sigmoid: then the logit is explained, which is not among the
    outputs, and the seeds of the samples, one by one, tell what it was.
    """
    tolerance = 1e-4 * max(1.0, float(selected.abs().sum()))
    if abs(float(selected.sum()) - found.audit.seed) <= tolerance:
        return selected
    seeds = [single(i).audit.seed for i in range(len(selected))]
    return torch.tensor(seeds, dtype=selected.dtype, device=selected.device)
