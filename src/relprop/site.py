"""A site: one executed operation that depends on the input, in one forward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: Few composites count: their sites share this one.
_NOWHERE: Mapping[object, int] = {}


@dataclass(slots=True)
class Site:
    """One executed operation.

    paths        the names of the module it ran in (several for a tied module; "" is the model itself)
    module_type  that module's class
    kind         the operation's kind: "conv", "linear", "activation", "sum", ...
    name         the torch function's name: "conv2d", "relu", "add", ...
    family       the rule method that serves it
    index        order of execution among all sites of the call
    call         how often this function had run in this module before, in this forward
    entry        which of the composite's `Entry` selectors it is an entry of
    positions    where it stands among the sites that the composite's positional selectors count
    """

    paths: tuple[str, ...]
    module_type: type | None
    kind: str
    name: str
    family: str
    index: int
    call: int = 0
    entry: frozenset[int] = frozenset()
    positions: Mapping[object, int] = field(default_factory=lambda: _NOWHERE)
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        return self.paths[0] if self.paths else ""

    @property
    def label(self) -> str:
        where = self.path or "(model)"
        return f"{where}.{self.name}" + (f"#{self.call}" if self.call else "")
