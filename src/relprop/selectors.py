"""Which sites a rule is for: by name, type, kind, and position among the executed sites."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from relprop.errors import SelectorError, nearest
from relprop.ops import TABLE, Op
from relprop.site import Site

LINEAR_KINDS = ("conv", "linear")

#: The kinds of the library's operations.
KINDS = (
    *LINEAR_KINDS, "scale", "activation", "pool", "sum", "residual", "product", "routing", "matmul", "norm",
    "statistic", "softmax", "logsumexp", "attention", "recurrent", "selection",
)  # fmt: skip


class Selector:
    """Base of all selectors. Combine them with `&`, `|` and `~`.

    static  whether a site's names, kind and module alone tell if it matches, whenever it runs: then it is asked once.
            A class says so of itself; it is not inherited
    """

    static: ClassVar[bool] = False

    def matches(self, site: Site) -> bool:
        raise NotImplementedError

    def parts(self) -> tuple[Selector, ...]:
        return ()

    def walk(self) -> Iterator[Selector]:
        """This selector and all that it is made of, innermost first."""
        for part in self.parts():
            yield from part.walk()
        yield self

    def names_kind(self) -> bool:
        """Whether it asks for a kind in so many words: then the rule is meant for just that kind."""
        return any(isinstance(s, Kind) for s in self.walk())

    def __and__(self, other: Selector) -> Selector:
        return And(self, other) if isinstance(other, Selector) else NotImplemented

    def __or__(self, other: Selector) -> Selector:
        return Or(self, other) if isinstance(other, Selector) else NotImplemented

    def __invert__(self) -> Selector:
        return Not(self)


@dataclass(frozen=True)
class And(Selector):
    static: ClassVar[bool] = True
    left: Selector
    right: Selector

    def matches(self, site: Site) -> bool:
        return self.left.matches(site) and self.right.matches(site)

    def parts(self) -> tuple[Selector, ...]:
        return (self.left, self.right)

    def __repr__(self) -> str:
        return f"{self.left!r} & {self.right!r}"


@dataclass(frozen=True)
class Or(Selector):
    static: ClassVar[bool] = True
    left: Selector
    right: Selector

    def matches(self, site: Site) -> bool:
        return self.left.matches(site) or self.right.matches(site)

    def parts(self) -> tuple[Selector, ...]:
        return (self.left, self.right)

    def __repr__(self) -> str:
        return f"({self.left!r} | {self.right!r})"


@dataclass(frozen=True)
class Not(Selector):
    static: ClassVar[bool] = True
    inner: Selector

    def matches(self, site: Site) -> bool:
        return not self.inner.matches(site)

    def parts(self) -> tuple[Selector, ...]:
        return (self.inner,)

    def __repr__(self) -> str:
        return f"~{self.inner!r}"


@dataclass(frozen=True, init=False)
class Name(Selector):
    """Sites in modules whose path matches one of the patterns: `Name("features.*")`; `*` also matches dots."""

    static: ClassVar[bool] = True
    patterns: tuple[str, ...]

    def __init__(self, *patterns: str) -> None:
        if not patterns or not all(isinstance(p, str) for p in patterns):
            raise SelectorError(f'Name takes module paths as text, like Name("features.*"), got {patterns!r}')
        object.__setattr__(self, "patterns", patterns)

    def matches(self, site: Site) -> bool:
        return any(fnmatchcase(path, pattern) for path in site.paths for pattern in self.patterns)

    def __repr__(self) -> str:
        return f"Name({', '.join(map(repr, self.patterns))})"


@dataclass(frozen=True, init=False)
class Type(Selector):
    """Sites in modules of these classes: `Type(nn.Conv2d)`."""

    static: ClassVar[bool] = True
    types: tuple[type, ...]

    def __init__(self, *types: type) -> None:
        if not types or not all(isinstance(t, type) for t in types):
            raise SelectorError(f"Type takes module classes, like Type(nn.Conv2d), got {types!r}")
        object.__setattr__(self, "types", types)

    def matches(self, site: Site) -> bool:
        return site.module_type is not None and issubclass(site.module_type, self.types)

    def __repr__(self) -> str:
        return f"Type({', '.join(t.__name__ for t in self.types)})"


@dataclass(frozen=True, init=False)
class Kind(Selector):
    """Sites of these kinds ("conv", "linear", "scale", "activation", "pool", "sum", "product", "matmul", "norm",
    "softmax", "attention", ...) or torch functions ("relu", "gelu", "conv2d", ...).

    "residual" is a sum of a way through and a way around it; it counts as a "sum" too.

    Raises `SelectorError` for a word that no operation goes by. A kind of your own is known once the `Op` is defined
    that has it as its class attribute, and a function of your own once it is registered.
    """

    static: ClassVar[bool] = True
    kinds: tuple[str, ...]

    def __init__(self, *kinds: str) -> None:
        if not kinds or not all(isinstance(k, str) for k in kinds):
            raise SelectorError(f'Kind takes kinds as text, like Kind("conv"), got {kinds!r}')
        for kind in kinds:
            _check_kind(kind)
        object.__setattr__(self, "kinds", kinds)

    def matches(self, site: Site) -> bool:
        if site.kind in self.kinds or site.name in self.kinds:
            return True
        return site.kind == "residual" and "sum" in self.kinds

    def __repr__(self) -> str:
        return f"Kind({', '.join(map(repr, self.kinds))})"


def _check_kind(kind: str) -> None:
    if kind in KINDS:
        return
    words = {*KINDS, *_kinds(Op), *TABLE.names()}
    if kind not in words:
        raise SelectorError(
            f"no operation is of kind {kind!r}{nearest(kind, sorted(words), cutoff=0.6)}. The kinds are "
            f"{', '.join(KINDS)}; further, every torch function that has a rule is one by its name, like relu"
        )


def _kinds(family: type[Op]) -> Iterator[str]:
    """The kinds of all operations that are defined, a user's too."""
    for op in family.__subclasses__():
        if isinstance(getattr(op, "kind", None), str):
            yield op.kind
        yield from _kinds(op)


def _check_inner(selector: Entry | Positional) -> None:
    inner = selector.inner
    if isinstance(inner, Selector):
        return
    name = f'Kind("{inner}")' if isinstance(inner, str) else f"Type({getattr(inner, '__name__', 'nn.Conv2d')})"
    raise SelectorError(f"{type(selector).__name__} counts what a selector matches, got {inner!r}: write {name}")


def _check_position(selector: Positional, name: str, value: Any) -> None:
    if type(value) is not int:
        raise SelectorError(f"{type(selector).__name__}: {name} must be a whole number, got {value!r}")


LINEAR_MAPS = Kind(*LINEAR_KINDS)


@dataclass(frozen=True)
class Entry(Selector):
    """Sites of `inner` with no other such site between the input and them: each tower of a model has its own."""

    inner: Selector = LINEAR_MAPS

    def __post_init__(self) -> None:
        _check_inner(self)

    def matches(self, site: Site) -> bool:
        return self.inner.matches(site) and hash(self) in site.entry

    def parts(self) -> tuple[Selector, ...]:
        return (self.inner,)

    def __repr__(self) -> str:
        return f"Entry({'' if self.inner == LINEAR_MAPS else repr(self.inner)})"


class Positional(Selector):
    """By position, from 0, among the executed sites that match `inner` (linear maps if none is named).

    Negative positions count from the end.
    """

    inner: Selector

    def __post_init__(self) -> None:
        _check_inner(self)

    def parts(self) -> tuple[Selector, ...]:
        return (self.inner,)

    def bounds(self, total: int | None) -> tuple[int, int]:
        """Half-open range of positions; `total` is None where the number of sites is not known."""
        raise NotImplementedError

    def from_end(self) -> bool:
        return False

    def matches(self, site: Site) -> bool:
        position = site.positions.get(self.inner)
        if position is None:
            return False
        low, high = self.bounds(site.positions.get(("total", self.inner)))
        return low <= position < high


@dataclass(frozen=True)
class Range(Positional):
    """Positions `start` to `stop`, half-open: `Range(0, 7)`, `Range(-3, None)`."""

    start: int
    stop: int | None
    inner: Selector = LINEAR_MAPS

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_position(self, "start", self.start)
        if self.stop is not None:
            _check_position(self, "stop", self.stop)

    def from_end(self) -> bool:
        return self.start < 0 or (self.stop is not None and self.stop < 0)

    def bounds(self, total: int | None) -> tuple[int, int]:
        def place(i: int) -> int:
            return i if i >= 0 else max((total or 0) + i, 0)

        return place(self.start), 1 << 62 if self.stop is None else place(self.stop)


@dataclass(frozen=True)
class Index(Positional):
    """The site at one position: `Index(3)`, `Index(-1)`."""

    index: int
    inner: Selector = LINEAR_MAPS

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_position(self, "index", self.index)

    def from_end(self) -> bool:
        return self.index < 0

    def bounds(self, total: int | None) -> tuple[int, int]:
        at = self.index if self.index >= 0 else (total or 0) + self.index
        return at, at + 1


@dataclass(frozen=True)
class FirstN(Positional):
    """The first `n` sites."""

    n: int
    inner: Selector = LINEAR_MAPS

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_position(self, "n", self.n)
        if self.n < 0:
            raise SelectorError(f"FirstN: n must not be negative, got {self.n}; the last are Range({self.n}, None)")

    def bounds(self, total: int | None) -> tuple[int, int]:
        return 0, self.n


@dataclass(frozen=True)
class First(Positional):
    """The first site by order of execution."""

    inner: Selector = LINEAR_MAPS

    def bounds(self, total: int | None) -> tuple[int, int]:
        return 0, 1


@dataclass(frozen=True)
class Last(Positional):
    """The last site by order of execution."""

    inner: Selector = LINEAR_MAPS

    def from_end(self) -> bool:
        return True

    def bounds(self, total: int | None) -> tuple[int, int]:
        return (total or 0) - 1, total or 0


@dataclass(frozen=True)
class All(Selector):
    """Every site."""

    static: ClassVar[bool] = True

    def matches(self, site: Site) -> bool:
        return True


class Census:
    """What a composite's selectors ask of a forward.

    counted       what positional selectors count
    entries       the selectors of entries
    static        whether all are
    needs_totals  whether some count from the end
    residual      whether some ask which sums are residual
    naming        of each, whether it names a kind
    """

    def __init__(self, selectors: tuple[Selector, ...]) -> None:
        every = [s for selector in selectors for s in selector.walk()]
        self.counted = tuple(dict.fromkeys(s.inner for s in every if isinstance(s, Positional)))
        self.entries = tuple(dict.fromkeys(s for s in every if isinstance(s, Entry)))
        self.static = all(vars(type(s)).get("static", False) for s in every)
        self.needs_totals = any(isinstance(s, Positional) and s.from_end() for s in every)
        self.residual = any(isinstance(s, Kind) and "residual" in s.kinds for s in every)
        self.naming = tuple(s.names_kind() for s in selectors)


class Positions:
    """Counts, during one forward, where each site stands among those that positional selectors count."""

    def __init__(self, census: Census, totals: Mapping[Selector, int] | None = None) -> None:
        self.counted, self.entries = census.counted, census.entries
        self.totals = dict(totals or {})
        self.counts: dict[Selector, int] = dict.fromkeys(self.counted, 0)

    def visit(self, site: Site, seen: frozenset[int]) -> frozenset[int]:
        """Place the site; `seen` are the entries that lie below it. Returns what lies below its output."""
        for inner in self.counted:
            if inner.matches(site):
                site.positions = {**site.positions, inner: self.counts[inner]}
                self.counts[inner] += 1
                if inner in self.totals:
                    site.positions[("total", inner)] = self.totals[inner]
        for entry in self.entries:
            key = hash(entry)
            if entry.inner.matches(site):
                if key not in seen:
                    site.entry = site.entry | {key}
                seen = seen | {key}
        return seen
