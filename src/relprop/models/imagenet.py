"""The names of the 1000 classes of ImageNet-1k."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files

from relprop.errors import InputError


class UnknownClass(InputError):
    """A class was named or numbered that the network does not have."""


@lru_cache(maxsize=1)
def class_names() -> tuple[str, ...]:
    """The names in the order of the output units.

    Where they come from is said at the head of the data file.
    """
    text = files("relprop.models").joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line and not line.startswith("#"))


def find_class(wanted: str | int, names: Sequence[str], *, count: int | None = None) -> int:
    """The output unit of a class given by its index or its name.

    Args:
        wanted: an index (as int or as digits) or a name; names are compared without regard to case, to spaces
            and to underscores. A part of a name counts where it is part of one name only.
        names: the class names in the order of the output units; may be empty, then only an index will do.
        count: how many output units there are, where that is known; defaults to the number of names.

    Raises:
        UnknownClass: with the nearest names.
    """
    count = len(names) if count is None else count
    text = str(wanted).strip()
    if text.lstrip("+-").isdigit():
        index = int(text)
        if not 0 <= index < count:
            raise UnknownClass(f"class {index} is out of range: the network has classes 0 to {count - 1}")
        return index
    if not names:
        raise UnknownClass(
            f"class {text!r}: the class names of this network are not known; give an index, or --classes"
        )
    folded = [_fold(name) for name in names]
    key = _fold(text)
    if key in folded:
        return folded.index(key)
    whole = [i for i, name in enumerate(names) if text.casefold() in name.casefold().replace("_", " ").split()]
    containing = whole or [i for i, name in enumerate(folded) if key and key in name]
    if len(containing) == 1:
        return containing[0]
    near = containing or _nearest(text, names)
    listed = ", ".join(f"{names[i]} ({i})" for i in near[:8])
    more = f" and {len(near) - 8} more" if len(near) > 8 else ""
    if containing:
        raise UnknownClass(f"class {text!r} is part of several names: {listed}{more}; give one of them")
    hint = f"; nearest names: {listed}" if near else ""
    raise UnknownClass(f"unknown class {text!r}{hint}")


def _nearest(wanted: str, names: Sequence[str]) -> list[int]:
    """The names that are most alike, as a whole or in one of their words."""
    wanted = wanted.casefold()

    def likeness(name: str) -> float:
        parts = {name.casefold(), *name.casefold().split()}
        return max(difflib.SequenceMatcher(None, wanted, part).ratio() for part in parts)

    rated = sorted(((likeness(name), -i) for i, name in enumerate(names)), reverse=True)[:5]
    return [-i for rate, i in rated if rate >= 0.6]


def _fold(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
