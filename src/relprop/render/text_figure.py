"""Words with relevance as a picture, with matplotlib: a text, two texts, or an answer's matrix."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from relprop.render.figure import bare, colour_bar, new_figure
from relprop.render.palette import DEFAULT, palette
from relprop.render.scale import Scale, as_array, find_scale
from relprop.render.text import STEPS, Word, scale_of, shade, shades, strongest_columns, visible

_COLUMNS = 90  # characters in a line
_SIZE = 9  # points
_LINE = 0.24  # inches
_MOST = 600  # words
_CELLS = 60
_LABEL = 20
_NOTHING = "no relevance: every value is zero"


def words(found: Sequence[Word], title: str) -> Any:
    """A text with coloured ground; of a long one the beginning, and the title says so."""
    scale = scale_of(found)
    if len(found) > _MOST:
        title += f" · the first {_MOST} of {len(found)} words"
    return _texts([(title, found[:_MOST])], scale)


def similarity(found: Any) -> Any:
    """Two texts on one scale."""
    scale = scale_of([*found.first.words, *found.second.words])
    first = f"similarity: {found.score:.4f}"
    return _texts([(first, found.first.words[:_MOST]), ("", found.second.words[:_MOST])], scale)


def matrix(found: Any) -> Any:
    """An answer down, the words before it across."""
    values = as_array(found.word_matrix(), "the words' relevance")
    kept = strongest_columns(values[:, :-1], _CELLS)  # the last word explains nothing
    rows = min(len(values), _CELLS)
    values = values[:rows, kept]
    scale = find_scale(values)
    figure = new_figure(2.2 + 0.19 * len(kept), 1.6 + 0.19 * rows)
    axes = figure.add_subplot()
    limit = scale.limit or 1.0
    axes.imshow(palette(DEFAULT)(values / limit), aspect="equal", interpolation="nearest")
    across = [_label(found.words[i].text) for i in kept]
    down = [_label(word.text) for word in found.answer_words[:rows]]
    axes.set_xticks(range(len(kept)), across, rotation=90, fontsize=_SIZE - 2, parse_math=False)
    axes.set_yticks(range(rows), down, fontsize=_SIZE - 2, parse_math=False)
    prompt = sum(found.words[i].start < found.start for i in kept)
    axes.axvline(prompt - 0.5, color="#555555", linewidth=0.8)  # to its right are the words of the answer
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    notes = [f"the {len(kept)} strongest of {len(found.words)} words"] if len(kept) < len(found.words) - 1 else []
    notes += [f"the first {rows} of {len(found.answer_words)} words of the answer"] * (rows < len(found.answer_words))
    notes += [_NOTHING if scale.empty else str(scale)]
    axes.set_xlabel("\n".join(notes), fontsize=_SIZE - 2)
    colour_bar(figure, axes, scale, DEFAULT)
    return figure


def _label(text: str) -> str:
    text = visible(text)
    return text if len(text) <= _LABEL else text[: _LABEL - 1] + "…"


def _texts(parts: Sequence[tuple[str, Sequence[Word]]], scale: Scale) -> Any:
    laid = [(title, _lines(found)) for title, found in parts]
    count = sum(len(lines) + (1.5 if title else 0.5) for title, lines in laid)
    figure = new_figure(8.2, 0.5 + _LINE * count)
    axes = figure.add_subplot()
    axes.set_xlim(0, _COLUMNS)
    axes.set_ylim(count, 0)
    bare(axes)
    for spine in axes.spines.values():
        spine.set_visible(False)
    table = shades()
    top = 0.5
    for title, lines in laid:
        if title:
            axes.text(0, top, visible(title), fontsize=_SIZE + 1, va="center", parse_math=False)
            top += 1.25
        for line in lines:
            for at, word in line:
                ground, ink = table[shade(word.relevance, scale) + STEPS]
                width = _width(visible(word.text))
                axes.add_patch(_box(at, top, width, ground))
                axes.text(
                    at + width / 2, top, visible(word.text), fontsize=_SIZE, family="monospace", ha="center",
                    va="center", color=tuple(c / 255 for c in ink), parse_math=False,
                    style="italic" if word.special else "normal",
                )  # fmt: skip
            top += 1
        top += 0.25
    if scale.empty:
        axes.set_xlabel(_NOTHING, fontsize=_SIZE - 1, color="#444444")
    colour_bar(figure, axes, scale, DEFAULT)
    return figure


def _box(at: float, top: float, width: float, ground: tuple[int, int, int]) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((at - 0.15, top - 0.42), width + 0.3, 0.84, color=tuple(c / 255 for c in ground), linewidth=0)


def _lines(found: Sequence[Word]) -> list[list[tuple[float, Word]]]:
    """Words with the column each begins at, line by line."""
    lines: list[list[tuple[float, Word]]] = [[]]
    at = 0.0
    for word in _cut(found):
        breaks = word.before.count("\n")
        width = _width(visible(word.text))
        beside = word.special or (bool(lines[-1]) and lines[-1][-1][1].special)
        space = 0.0 if breaks or not lines[-1] else float(bool(word.before) or beside) + 0.2
        if breaks or (lines[-1] and at + space + width > _COLUMNS):
            lines.extend([] for _ in range(max(1, min(breaks, 2))))
            at, space = 0.0, 0.0
        lines[-1].append((at + space, word))
        at += space + width
    return lines


def _cut(found: Sequence[Word]) -> Iterator[Word]:
    """Words longer than a line in parts, each in the whole word's colour."""
    for word in found:
        text, before = visible(word.text), word.before
        while _width(text) > _COLUMNS:
            stop = next(i for i in range(_COLUMNS, 0, -1) if _width(text[:i]) <= _COLUMNS)
            yield replace(word, text=text[:stop], before=before)
            text, before = text[stop:], ""
        yield replace(word, text=text, before=before)


def _width(text: str) -> float:
    """Columns: East Asian signs take two."""
    return float(sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text))
