"""Words with relevance on a terminal, with rich: coloured ground where there are colours, numbers everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from relprop.errors import InputError
from relprop.extras import require
from relprop.render.scale import Scale
from relprop.render.text import (
    STEPS,
    Word,
    page_at,
    pages,
    plain,
    scale_of,
    shade,
    shades,
    signed,
    strongest_columns,
    strongest_passages,
    strongest_words,
    visible,
)

_PAGED = 400  # words from which on a text is shown page by page
_LISTED = 8
_PASSAGE = 140  # characters
_MATRIX_ROWS = 40
_LABEL = 18
_BAR = 24


def console(file: Any = None, colour: bool | None = None) -> Any:
    """A rich console; `colour` forces colours on or off, else the terminal decides."""
    rich = require("rich.console", "text", "showing a text")
    if colour:
        return rich.Console(file=file, force_terminal=True, color_system="truecolor", highlight=False)
    return rich.Console(file=file, no_color=True if colour is False else None, highlight=False)


def explanation(console: Any, found: Any, page: int | None = None) -> None:
    """One text and what it made the model say."""
    scale = scale_of(found.words)
    cut = _cut(found.words, page)
    _line(console, f"{found.target}: {found.score:.4g}", "bold")
    if found.candidates:
        _line(console, "   ".join(f"{text!r} {share:.1%}" for text, share in found.candidates))
    console.print()
    _text(console, found.words, scale, cut, page)
    _legend(console, scale)
    _strongest(console, found.words, scale)
    _end(console, found)


def similarity(console: Any, found: Any, page: int | None = None) -> None:
    """Two texts on one scale."""
    both = [*found.first.words, *found.second.words]
    scale = scale_of(both)
    _line(console, f"similarity: {found.score:.4f}", "bold")
    console.print()
    for one in (found.first, found.second):
        _text(console, one.words, scale, _cut(one.words, page), page)
        _line(console, f"  {signed(sum(word.relevance for word in one.words))} in sum")
        console.print()
    _legend(console, scale)
    _strongest(console, both, scale)
    _end(console, found)


def generation(console: Any, found: Any, page: int | None = None) -> None:
    """An answer: what made the model say each word of it, and the matrix."""
    words, answer = found.words, found.answer_words
    prompt = words[: len(words) - len(answer)]
    scale = scale_of(prompt)
    _line(console, "prompt, by its relevance for the whole answer", "bold")
    _text(console, prompt, scale, _cut(prompt, page), page)
    _legend(console, scale)
    console.print()
    ended = "" if found.finished else ", cut off at the length asked for"
    _line(console, f"answer: {len(found.audits)} tokens{ended}", "bold")
    _line(console, plain(answer))
    console.print()
    matrix = found.word_matrix().numpy()
    width = min(_LABEL, max(len(visible(word.text)) for word in answer))
    for row, word in enumerate(answer):
        own = [Word(w.text, w.before, float(v), w.special) for w, v in zip(words, matrix[row])]
        best = "   ".join(f"{_short(w.text)} {signed(w.relevance)}" for w in strongest_words(own, 4) if w.relevance)
        _line(console, f"{row + 1:>3} {_short(word.text):<{width}}  {best or 'nothing before it'}")
    console.print()
    _matrix(console, words, len(answer), matrix)
    worst = max(audit.unexplained_share for audit in found.audits)
    _line(console, f"books balanced for each token: at most {worst:.0e} unexplained", "dim")
    for note in found.notes:
        _line(console, f"note: {note}", "dim")


# -- parts -------------------------------------------------------------------------------------------------------------


def _line(console: Any, text: str, style: str = "") -> None:
    """One line, its words as they are: no markup is read from them."""
    console.print(require("rich.text", "text", "showing a text").Text(visible(text), style=style))


def _cut(words: Sequence[Word], page: int | None) -> list[tuple[int, int]]:
    cut = pages(words) if len(words) > _PAGED else [(0, len(words))]
    if page is not None and not 1 <= page <= len(cut):
        raise InputError(f"there is no page {page}: the text has {len(cut)}")
    return cut


def _text(console: Any, words: Sequence[Word], scale: Scale, cut: Sequence[tuple[int, int]], page: int | None) -> None:
    if len(cut) > 1 and page is None:
        _line(console, "strongest passages", "bold")
        for passage in strongest_passages(words):
            said = _short(" ".join(plain(words[passage.start : passage.stop]).split()), _PASSAGE)
            _line(console, f"{signed(passage.relevance):>8}  page {page_at(cut, passage.start):>3}  {said}")
        console.print()
    start, stop = cut[(page or 1) - 1]
    console.print(_coloured(words[start:stop], scale))
    if len(cut) > 1:
        _line(console, f"page {page or 1} of {len(cut)}; show(page=...) shows another", "dim")


def _coloured(words: Sequence[Word], scale: Scale) -> Any:
    text = require("rich.text", "text", "showing a text").Text(overflow="fold")
    styles = _styles()
    for i, word in enumerate(words):
        beside = bool(i) and (word.special or words[i - 1].special)
        text.append(visible(word.before or " " * beside) if i else "")
        said = f"⟨{word.text}⟩" if word.special else word.text
        text.append(visible(said), styles[shade(word.relevance, scale) + STEPS])
    return text


def _styles() -> list[Any]:
    """The style of each shade; nearly nothing keeps the terminal's own colours."""
    styles = require("rich.style", "text", "showing a text")
    colours = require("rich.color", "text", "showing a text").Color
    found = [styles.Style(color=colours.from_rgb(*ink), bgcolor=colours.from_rgb(*ground)) for ground, ink in shades()]
    found[STEPS] = styles.Style()
    return found


def _legend(console: Any, scale: Scale) -> None:
    if scale.empty:
        _line(console, "zero everywhere: nothing of the score reaches the words")
        return
    if console.no_color or console.color_system is None:
        return  # there are no colours to explain; the numbers follow
    text = require("rich.text", "text", "showing a text").Text()
    text.append(f"{signed(-scale.limit)} ")
    for style in _styles()[:: STEPS // 8]:
        text.append(" ", style)
    text.append(f" {signed(scale.limit)}" + (f"   {scale}" if scale.clipped else ""))
    console.print(text)


def _strongest(console: Any, words: Sequence[Word], scale: Scale) -> None:
    if scale.empty:
        return
    console.print()
    styles = _styles()
    best = strongest_words(words, _LISTED)
    width = max(len(_short(word.text)) for word in best)
    for word in best:
        line = require("rich.text", "text", "showing a text").Text()
        line.append(f"{_short(word.text):>{width}}  {signed(word.relevance):>9}  ")
        length = max(1, round(_BAR * abs(word.relevance) / scale.limit)) if word.relevance else 0
        line.append("█" * length, _only_colour(styles[-1 if word.relevance > 0 else 0]))
        console.print(line)


def _only_colour(style: Any) -> Any:
    return require("rich.style", "text", "showing a text").Style(color=style.bgcolor)


def _short(text: str, length: int = _LABEL) -> str:
    text = visible(text)
    return text if len(text) <= length else text[: length - 1] + "…"


def _end(console: Any, found: Any) -> None:
    console.print()
    audit = found.audit
    if audit is not None:
        base = abs(audit.seed) or 1.0
        rows = [(name.replace("input input_ids", "words"), value) for name, value in audit.rows()[1:-1] if value]
        shares = [f"{name} {value / base:.1%}" for name, value in rows]
        _line(console, f"{', '.join(shares)}; unexplained {audit.unexplained_share:.0e}", "dim")
    for note in found.notes:
        _line(console, f"note: {note}", "dim")


def _matrix(console: Any, words: Sequence[Word], count: int, matrix: np.ndarray) -> None:
    """Words down, the answer across; where there are no colours, signs say which way and how much."""
    columns = min(count, max(1, (console.width - _LABEL - 4) // 3))
    kept = strongest_columns(matrix[:columns], _MATRIX_ROWS)
    scale = scale_of([Word("", "", float(v)) for v in matrix[:columns, kept].ravel()])
    styles = _styles()
    text_class = require("rich.text", "text", "showing a text").Text
    head = "the answer across, the words before it down"
    head += f" (the {len(kept)} strongest of {len(words)})" if len(kept) < len(words) else ""
    head += f"; its first {columns} of {count} words" if columns < count else ""
    _line(console, head, "bold")
    console.print(text_class(" " * (_LABEL + 1) + "".join(f"{i + 1:>3}" for i in range(columns))))
    for i in kept:
        line = text_class(f"{_short(words[i].text):>{_LABEL}} ")
        for row in range(columns):
            value = float(matrix[row, i])
            line.append(_sign(value, scale), styles[shade(value, scale) + STEPS])
        console.print(line)
    _legend(console, scale)


def _sign(value: float, scale: Scale) -> str:
    strength = abs(shade(value, scale)) / STEPS
    if strength < 0.1:
        return "  ·" if strength else "   "
    return f" {('+' if value > 0 else '-') * (2 if strength > 0.5 else 1):>2}"
