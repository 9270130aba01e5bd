"""The books of one backward: relevance that did not reach an operand, by entry and, on request, by site."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from relprop.site import Site

#: The entries, in the order in which they are shown.
ENTRIES = ("bias", "epsilon", "constants", "excess")


class Ledger:
    """Amounts are scalar tensors that stay on the device until the totals are asked for."""

    def __init__(self, by_site: bool = False) -> None:
        self.by_site = by_site
        self._amounts: defaultdict[str, list[Tensor]] = defaultdict(list)
        self._sites: defaultdict[int, defaultdict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
        self._site: Site | None = None

    def open(self, site: Site | None) -> None:
        """What follows is written down for this site."""
        self._site = site

    def add(self, entry: str, amount: Tensor) -> None:
        amount = amount.detach()
        self._amounts[entry].append(amount)
        if self.by_site and self._site is not None:
            self._sites[self._site.index][entry].append(amount)

    def totals(self) -> dict[str, float]:
        return {entry: _total(self._amounts.get(entry, [])) for entry in ENTRIES}

    def sites(self) -> dict[int, dict[str, float]]:
        return {i: {k: _total(v) for k, v in entries.items()} for i, entries in self._sites.items()}


def _total(amounts: list[Tensor]) -> float:
    if not amounts:
        return 0.0
    return float(torch.stack([a.double().reshape(()).cpu() for a in amounts]).sum())
