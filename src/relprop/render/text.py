"""Words with relevance: what the terminal, the page and the picture of a text have in common.

A text is a list of words. It has one scale, the same for both signs and stated beside the text; passages, which
are its sentences; and pages, where it is long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from relprop.errors import InputError
from relprop.render.palette import Palette, palette
from relprop.render.scale import Scale, as_array, find_scale

STEPS = 32  # shades on each side of zero
_PAGE = 400  # words
_LONGEST = 60  # words of a passage, where no sentence ends
_ENDS = (".", "!", "?", "…")  # before a space
_FULL_ENDS = ("。", "！", "？")  # anywhere


@dataclass(frozen=True)
class Word:
    """A word as it is written.

    text       without the white space around it; white space alone is written as signs
    before     white space before it
    relevance  of all its tokens
    special    it marks the structure of the input, as ``[CLS]`` does
    start      its first token
    stop       the token after its last
    pieces     its tokens as the vocabulary writes them, each with its relevance
    """

    text: str
    before: str
    relevance: float
    special: bool = False
    start: int = 0
    stop: int = 0
    pieces: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Passage:
    """A stretch of words that belong together, and their relevance in sum."""

    start: int
    stop: int
    relevance: float


def scale_of(words: Sequence[Word], percentile: float = 100.0, limit: float | None = None) -> Scale:
    """The scale of a text's words.

    Raises:
        InputError: where there are no words, or relevance that is not finite.
    """
    if not words:
        raise InputError("there is no text to draw: it has no tokens")
    values = as_array([word.relevance for word in words], "the words' relevance")
    return find_scale(values, percentile=percentile, limit=limit)


def shade(value: float, scale: Scale) -> int:
    """A value's place among the shades, from -STEPS to STEPS; the weakest shades are for what is nearly nothing."""
    if scale.empty:
        return 0
    return round(STEPS * max(-1.0, min(1.0, value / scale.limit)))


def shades(colours: str | Palette = "relevance") -> list[tuple[tuple[int, int, int], tuple[int, int, int]]]:
    """Background and writing of every shade, from the most negative to the most positive."""
    table = palette(colours)(np.linspace(-1, 1, 2 * STEPS + 1))
    return [(_rgb(row), _ink(_rgb(row))) for row in table]


def _rgb(row: np.ndarray) -> tuple[int, int, int]:
    return int(row[0]), int(row[1]), int(row[2])


def _ink(ground: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever stands out more. [WCAG 2.1, contrast ratio]"""
    parts = [(c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4) for c in ground]
    light = 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
    return (0, 0, 0) if (light + 0.05) / 0.05 > 1.05 / (light + 0.05) else (255, 255, 255)


def visible(text: str) -> str:
    """Text without signs that steer what shows it: controls and changes of direction become signs of their own.

    Line breaks and tabs stay.
    """
    return text.translate(_CONTROLS)


_CONTROLS: dict[int, str] = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: "\u2421",
    **{code: f"<U+{code:04X}>" for code in (*range(0x80, 0xA0), 0x200E, 0x200F, 0x061C, 0x2028, 0x2029)},
    **{code: f"<U+{code:04X}>" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF)},
}


def signed(value: float) -> str:
    """A number with its sign, short."""
    return f"{value:+.3g}"


def plain(words: Sequence[Word]) -> str:
    """The words as running text."""
    return "".join(word.before + word.text for word in words).strip()


def strongest_words(words: Sequence[Word], count: int) -> list[Word]:
    """The words with the most relevance of either sign, the strongest first."""
    return sorted(words, key=lambda word: -abs(word.relevance))[:count]


def passages(words: Sequence[Word]) -> list[Passage]:
    """Sentences and lines, in order."""
    found, start = [], 0
    for i, word in enumerate(words):
        last = i + 1 == len(words)
        space = "" if last else words[i + 1].before
        ends = word.text.endswith(_FULL_ENDS) or "\n" in space or (bool(space) and word.text.endswith(_ENDS))
        if last or ends or i + 1 - start >= _LONGEST or (word.special and i >= start):
            found.append(Passage(start, i + 1, sum(w.relevance for w in words[start : i + 1])))
            start = i + 1
    return found


def strongest_passages(words: Sequence[Word], count: int = 5) -> list[Passage]:
    """The passages of most relevance of either sign, the strongest first; those of marks alone are left out."""
    said = [p for p in passages(words) if not all(w.special for w in words[p.start : p.stop])]
    return sorted(said, key=lambda passage: -abs(passage.relevance))[:count]


def page_at(cut: Sequence[tuple[int, int]], word: int) -> int:
    """The page, from 1, that a word stands on."""
    return next(number for number, (start, stop) in enumerate(cut, 1) if start <= word < stop)


def strongest_columns(values: np.ndarray, count: int) -> list[int]:
    """Of a matrix's columns, in order, the `count` that hold most relevance of either sign."""
    if values.shape[1] <= count:
        return list(range(values.shape[1]))
    return sorted(np.argsort(-np.abs(values).max(0), kind="stable")[:count].tolist())


def pages(words: Sequence[Word], size: int = _PAGE) -> list[tuple[int, int]]:
    """Where a long text is cut: between passages, after about `size` words."""
    if size < 1:
        raise InputError(f"a page holds at least one word, got {size}")
    found, start = [], 0
    for passage in passages(words):
        if passage.stop - start > size and passage.start > start:
            found.append((start, passage.start))
            start = passage.start
    if start < len(words):
        found.append((start, len(words)))
    return found
