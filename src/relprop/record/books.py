"""The books of one backward: relevance that did not reach an operand, by entry and, on request, by site."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from relprop.numerics import nonzero, numbers
from relprop.record.saved import alone
from relprop.site import Site

#: The entries, in the order in which they are shown.
ENTRIES = ("bias", "epsilon", "constants", "excess", "excluded")
#: From so many entries on it pays to look who holds a tensor.
_LARGE = 1 << 16


class Ledger:
    """Amounts are scalar tensors that stay on the device until the totals are asked for.

    The nodes of a graph hold its one ledger (and through it nothing of the graph); each backward begins it anew.

    last  whether the graph serves no further backward
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self, by_site: bool = False) -> None:
        """Empty it. `by_site`: keep the books of every site too."""
        self.by_site = by_site
        self.last = False
        self.dense = 0
        self._amounts: list[Tensor] = []
        self._entries: list[tuple[str, float]] = []
        self._sites: defaultdict[int, defaultdict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
        self._sizes: list[Tensor] = []
        self._site: Site | None = None
        self.labels: dict[int, str] = {}

    def open(self, site: Site | None) -> None:
        """What follows is written down for this site."""
        self._site = site

    def add(self, entry: str, amount: Tensor, times: float = 1.0) -> None:
        """Write down `times * amount`."""
        if amount.requires_grad:
            amount = amount.detach()
        self._amounts.append(amount)
        self._entries.append((entry, times))
        if self.by_site and self._site is not None:
            self._sites[self._site.index][entry].append(amount if times == 1 else times * amount)

    def spent(self, kept: Tensor) -> bool:
        """Whether a tensor that the graph kept may be written over: this is the last backward through the graph, and
        nobody else holds its memory. Asked of large ones alone."""
        return self.last and not self.by_site and kept.numel() >= _LARGE and alone(kept)

    def flow(
        self,
        site: Site,
        operands: Sequence[Tensor | None],
        outputs: Sequence[Tensor | None],
        gs: Sequence[Tensor | None],
        pulled: Sequence[Tensor | None],
    ) -> None:
        """What came in at a site's outputs and went out at its operands. Without outputs: at one of its operands."""
        if any(t is None for t in (*operands, *outputs[:1])):
            return
        came = [_relevance(y, g) for y, g in zip(outputs, gs, strict=False) if g is not None and y is not None]
        went = [_relevance(x, g) for x, g in zip(operands, pulled, strict=True) if g is not None and x is not None]
        self._sizes += [_product(y, g).abs().sum() for y, g in zip(outputs, gs, strict=False)
                        if y is not None and g is not None]  # fmt: skip
        self._sites[site.index]["in"].extend(came)
        self._sites[site.index]["out"].extend(went)
        self.labels[site.index] = site.label

    def came(self, site: Site, amount: Tensor) -> None:
        """Relevance that came in at a site whose operands are seen one by one."""
        if self.by_site:
            self._sites[site.index]["in"].append(amount.detach())
            self.labels[site.index] = site.label

    def worst(self) -> list[tuple[str, float]]:
        """Relevance that vanished or appeared at a site without being written down, worst first."""
        found = []
        for index, entries in self.sites().items():
            if "in" in entries or "out" in entries:
                booked = sum(entries.get(e, 0.0) for e in ENTRIES)
                found.append((self.labels[index], entries.get("in", 0.0) - entries.get("out", 0.0) - booked))
        return sorted(found, key=lambda row: -abs(row[1]))

    def largest(self) -> float:
        """The most absolute relevance that came into any site whose books are kept."""
        return max(numbers(self._sizes), default=0.0)

    def totals(self) -> dict[str, float]:
        found = dict.fromkeys(ENTRIES, 0.0)
        for (entry, times), amount in zip(self._entries, numbers(self._amounts), strict=True):
            found[entry] += times * amount
        return found

    def sites(self) -> dict[int, dict[str, float]]:
        return {i: {k: sum(numbers(v)) for k, v in entries.items()} for i, entries in self._sites.items()}


def _relevance(values: Tensor, g: Tensor) -> Tensor:
    return _product(values, g).sum().real


def _product(values: Tensor, g: Tensor) -> Tensor:
    return torch.where(values.isinf() | (g == 0), 0.0, nonzero(values).conj() * g)
