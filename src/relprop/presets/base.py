"""Presets are composites with a name, parameters and a paper."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

from relprop.composite import Composite, Row


@dataclass(frozen=True, repr=False)
class Preset(Composite):
    """Base of the presets: frozen dataclasses whose parameters make the rows."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_rows", self.make())

    @cached_property
    def name(self) -> str:  # type: ignore[override]
        shown = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default]
        return f"{type(self).__name__}({', '.join(shown)})"

    def make(self) -> tuple[Row, ...]:
        raise NotImplementedError

    def __repr__(self) -> str:
        return self.name
