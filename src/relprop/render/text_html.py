"""Words with relevance as HTML: fragments for a notebook, and what a page shows of a text.

Every text is escaped where it enters, and signs that steer the display are shown. What can be chosen is chosen with
radio buttons and folds, which browsers know without a script, by keyboard too.
"""

from __future__ import annotations

import hashlib
import html
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from relprop.render.scale import Scale
from relprop.render.text import (
    STEPS,
    Word,
    page_at,
    pages,
    scale_of,
    shade,
    shades,
    signed,
    strongest_columns,
    strongest_passages,
    strongest_words,
    visible,
)

_PAGED = 600  # words from which on a text is cut into pages
_COLUMNS = 60  # of a matrix
_ROWS = 200
_SPANS = 60_000  # words in all panels of an answer


def escape(text: object) -> str:
    """Text for any place in a page, attributes too."""
    return html.escape(visible(str(text)), quote=True)


def fragment(content: str) -> str:
    """What a notebook shows below a cell."""
    return f'<style>{style()}</style>\n<div class="relprop-text">\n{content}\n</div>'


# -- the three kinds of result -----------------------------------------------------------------------------------------


def is_text(found: Any) -> bool:
    """Whether it is one of the results of `relprop.text`."""
    return any(all(hasattr(found, name) for name in names) for names in _KINDS)


_KINDS = (("tokens", "words", "relevance"), ("first", "second", "score"), ("word_matrix", "answer_words"))


def body(found: Any) -> str:
    """A result of any kind as a page shows it, which has the books in a place of their own."""
    if hasattr(found, "word_matrix"):
        return _joined(_generation(found, "h2"))
    return _joined(_similarity(found, "h2") if hasattr(found, "first") else _explanation(found, "h2"))


def words(found: Sequence[Word]) -> str:
    """Words that nothing more is known of."""
    scale = scale_of(found)
    return _joined([_legend(scale), _text(found, scale), _strongest(found, scale)])


def explanation(found: Any) -> str:
    """One text and what it made the model say."""
    return _joined([*_explanation(found), _audit(found.audit)])


def similarity(found: Any) -> str:
    """Two texts on one scale."""
    return _joined([*_similarity(found), _audit(found.audit)])


def generation(found: Any) -> str:
    """An answer: choose a word of it and see what made the model say it; then the whole matrix."""
    return _joined(_generation(found))


def _generation(found: Any, level: str = "h1") -> list[str]:
    matrix = found.word_matrix().numpy()
    ended = "" if found.finished else " (cut off at the length asked for)"
    parts = [_head("answer", f"{len(found.audits)} tokens{ended}", level)]
    return [*parts, _choices(found, matrix), _matrix(found, matrix), _notes(found.notes), _audits(found)]


def _explanation(found: Any, level: str = "h1") -> list[str]:
    scale = scale_of(found.words)
    parts = [_head(found.target, f"{found.score:.4g}", level), _candidates(found.candidates), _legend(scale)]
    return [*parts, _text(found.words, scale), _strongest(found.words, scale), _notes(found.notes)]


def _similarity(found: Any, level: str = "h1") -> list[str]:
    both = [*found.first.words, *found.second.words]
    scale = scale_of(both)
    parts = [_head("similarity", f"{found.score:.4f}", level), _legend(scale)]
    for name, one in (("first text", found.first), ("second text", found.second)):
        total = sum(word.relevance for word in one.words)
        parts += [f'<h2>{name} <span class="sum">{signed(total)}</span></h2>', _text(one.words, scale)]
    return [*parts, _strongest(both, scale), _notes(found.notes)]


def _joined(parts: Iterable[str]) -> str:
    return "\n".join(part for part in parts if part)


# -- parts -------------------------------------------------------------------------------------------------------------


def _head(name: str, value: str, level: str = "h1") -> str:
    return f'<{level}>{escape(name)} <span class="score">{escape(value)}</span></{level}>'


def _candidates(candidates: Sequence[tuple[str, float]]) -> str:
    if not candidates:
        return ""
    rows = "".join(
        f'<li><code>{escape(_quoted(text))}</code> <meter min="0" max="1" value="{share:.4f}"></meter> {share:.1%}</li>'
        for text, share in candidates
    )
    return f'<ul class="candidates">{rows}</ul>'


def _quoted(text: str) -> str:
    """A token with its spaces seen."""
    return text.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥")


def _legend(scale: Scale) -> str:
    if scale.empty:
        return '<p class="legend empty">zero everywhere: nothing of the score reaches the words</p>'
    return (
        f'<p class="legend"><span>against {signed(-scale.limit)}</span><span class="bar"></span>'
        f"<span>{signed(scale.limit)} for</span>{_clipped(scale)}</p>"
    )


def _clipped(scale: Scale) -> str:
    return f" <small>{escape(scale)}</small>" if scale.clipped else ""


def _spans(words: Sequence[Word], scale: Scale, marks: dict[int, str] | None = None, first: int = 0) -> str:
    return "".join(_span(word, scale, (marks or {}).get(first + i, "")) for i, word in enumerate(words))


def _span(word: Word, scale: Scale, mark: str = "") -> str:
    number = shade(word.relevance, scale)
    classes = ["w"]
    if number:
        classes.append(f"{'p' if number > 0 else 'n'}{abs(number)}")
    if word.special:
        classes.append("mark")
    said = signed(word.relevance)
    if len(word.pieces) > 1:
        said += " = " + "  ".join(f"{piece} {signed(value)}" for piece, value in word.pieces)
    anchor = f' id="{mark}"' if mark else ""
    return (
        f'{escape(word.before)}<span{anchor} class="{" ".join(classes)}" title="{escape(said)}">'
        f"{escape(word.text)}</span>"
    )


def _text(words: Sequence[Word], scale: Scale) -> str:
    """The text itself; a long one in folds, after the passages that matter most."""
    if len(words) <= _PAGED:
        return f'<p class="text" dir="auto">{_spans(words, scale)}</p>'
    cut = pages(words)
    prefix = _unique(words)
    best = strongest_passages(words)
    marks = {passage.start: f"{prefix}-{passage.start}" for passage in best}
    listed = "".join(
        f'<li><a href="#{marks[p.start]}"><b>{signed(p.relevance)}</b> page {page_at(cut, p.start)}</a> '
        f'<span class="text">{_spans(words[p.start : p.stop], scale)}</span></li>'
        for p in best
    )
    folds = "".join(
        f'<details class="page"{" open" if number == 1 else ""}><summary>page {number} of {len(cut)} '
        f'<span class="sum">{signed(sum(w.relevance for w in words[start:stop]))}</span></summary>'
        f'<p class="text" dir="auto">{_spans(words[start:stop], scale, marks, start)}</p></details>'
        for number, (start, stop) in enumerate(cut, 1)
    )
    return f'<h2>strongest passages</h2><ol class="passages">{listed}</ol>{folds}'


def _unique(words: Sequence[Word]) -> str:
    """A prefix for anchors that is another one for another text: several may stand in one notebook."""
    seen = "\x00".join(f"{word.text}\x01{word.relevance}" for word in words)
    return "r" + hashlib.sha256(seen.encode("utf-8", "replace")).hexdigest()[:10]


def _strongest(words: Sequence[Word], scale: Scale, count: int = 10) -> str:
    if scale.empty:
        return ""
    rows = "".join(
        f'<tr><th class="text">{escape(word.text)}</th><td>{signed(word.relevance)}</td><td class="track">'
        f'<span class="{"p" if word.relevance > 0 else "n"}{STEPS}" '
        f'style="width:{100 * min(1.0, abs(word.relevance) / scale.limit):.1f}%"></span></td></tr>'
        for word in strongest_words(words, count)
    )
    return f'<details open><summary>strongest words</summary><table class="words">{rows}</table></details>'


def _notes(notes: Iterable[str]) -> str:
    return "".join(f'<p class="note">{escape(note)}</p>' for note in notes)


def _audit(audit: Any) -> str:
    if audit is None:
        return ""
    base = abs(audit.seed) or 1.0
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{value:.5g}</td><td>{value / base:.2%}</td></tr>"
        for name, value in audit.rows()
    )
    return f"<details><summary>where the score went</summary><table>{rows}</table></details>"


def _audits(found: Any) -> str:
    titles = ("token", "probability", "logit", "input", "other leaves", "bias", "epsilon", "constants", "not conserved")
    head = "".join(f"<th>{name}</th>" for name in (*titles, "unexplained"))
    rows = []
    for token, share, audit in zip(found.tokens[found.start :], found.probabilities.tolist(), found.audits):
        values = [audit.seed, sum(audit.inputs.values()), sum(audit.leaves.values())]
        values += [audit.bias, audit.epsilon, audit.constants, audit.excess]
        cells = "".join(f"<td>{value:.3g}</td>" for value in values)
        rows.append(
            f"<tr><th><code>{escape(_quoted(token.text or token.piece))}</code></th><td>{share:.1%}</td>{cells}"
            f"<td>{audit.unexplained_share:.1e}</td></tr>"
        )
    return (
        "<details><summary>where each token's logit went</summary>"
        f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div></details>'
    )


# -- an answer ---------------------------------------------------------------------------------------------------------


def _choices(found: Any, matrix: np.ndarray) -> str:
    words, answer = found.words, found.answer_words
    prefix = _unique(words)
    first = len(words) - len(answer)
    brief = len(answer) * len(words) > _SPANS
    name = "the whole answer against its prompt"
    buttons = [_button(prefix, 0, "the whole answer", "", checked=True)]
    panels = [_panel(words, [word.relevance for word in words[:first]], name, first, brief)]
    for row, word in enumerate(answer):
        buttons.append(_button(prefix, row + 1, word.text, word.before, special=word.special))
        said = first + row
        panels.append(_panel(words[: said + 1], matrix[row, :said].tolist(), word.text, said, brief))
    return (
        f'<div class="choose"><p class="hint">Choose a word of the answer:</p>{"".join(buttons)}'
        f'<div class="panels">{"".join(panels)}</div></div>{_choice_style(len(buttons))}'
    )


def _button(prefix: str, number: int, text: str, before: str, checked: bool = False, special: bool = False) -> str:
    key = f"{prefix}-c{number}"
    shown = "<br>" if "\n" in before else " "
    kind = "all" if not number else "mark" if special else ""
    return (
        f'{shown}<input type="radio" class="choice" name="{prefix}" id="{key}"{" checked" if checked else ""}>'
        f'<label for="{key}" class="{kind}">{escape(text)}</label>'
    )


def _panel(words: Sequence[Word], relevance: Sequence[float], name: str, said: int, brief: bool) -> str:
    """What made the model say the words from `said` on: the words before them with their relevance."""
    own = [_replaced(word, float(value)) for word, value in zip(words[:said], relevance)]
    scale = scale_of(own)
    if brief:
        best = strongest_passages(own)
        text = "".join(
            f'<li><b>{signed(p.relevance)}</b> <span class="text">{_spans(own[p.start : p.stop], scale)}</span></li>'
            for p in best
        )
        text = f'<p class="hint">the strongest passages</p><ol class="passages">{text}</ol>'
    else:
        text = f'<p class="text" dir="auto">{_spans(own, scale)}'
        text += "".join(f'{escape(w.before)}<span class="w said">{escape(w.text)}</span>' for w in words[said:])
        text += "</p>"
    return f'<section class="panel"><h2>{escape(name)}</h2>{_legend(scale)}{text}</section>'


def _replaced(word: Word, relevance: float) -> Word:
    return Word(word.text, word.before, relevance, word.special, word.start, word.stop)


def _choice_style(count: int) -> str:
    """Which panel a button opens. Buttons and panels are counted, so that no text enters a style."""
    rules = "".join(
        f".relprop-text .choice:nth-of-type({i}):checked~.panels>.panel:nth-child({i}){{display:block}}"
        for i in range(1, count + 1)
    )
    return f"<style>{rules}</style>"


def _matrix(found: Any, matrix: np.ndarray) -> str:
    words, answer = found.words, found.answer_words
    rows = list(range(min(len(answer), _ROWS)))
    kept = strongest_columns(matrix[:, :-1], _COLUMNS)  # the last word explains nothing
    shown = matrix[np.ix_(rows, kept)]
    scale = scale_of([_replaced(words[0], float(value)) for value in shown.ravel()])
    edge = next((i for i in kept if words[i].start >= found.start), None)  # the answer's first column
    head = "".join(f'<th scope="col"><span>{escape(words[i].text)}</span></th>' for i in kept)
    body = []
    for row in rows:
        said = answer[row].text
        cells = "".join(_cell(float(matrix[row, i]), scale, words[i].text, said, i == edge) for i in kept)
        body.append(f'<tr><th scope="row">{escape(said)}</th>{cells}</tr>')
    left = [f"the {len(kept)} strongest of {len(words)} words"] if len(kept) < len(words) - 1 else []
    left += [f"the first {len(rows)} of {len(answer)} words of the answer"] if len(rows) < len(answer) else []
    hint = f'<p class="hint">{"; ".join(left)}</p>' if left else ""
    return (
        f"<details open><summary>the answer against all words before it</summary>{_legend(scale)}{hint}"
        f'<div class="scroll"><table class="matrix"><tr><td></td>{head}</tr>{"".join(body)}</table></div></details>'
    )


def _cell(value: float, scale: Scale, word: str, said: str, edge: bool) -> str:
    number = shade(value, scale)
    classes = ([f"{'p' if number > 0 else 'n'}{abs(number)}"] if number else []) + (["edge"] if edge else [])
    kind = f' class="{" ".join(classes)}"' if classes else ""
    return f'<td{kind} title="{escape(f"{word} → {said}: {signed(value)}")}"></td>'


# -- style -------------------------------------------------------------------------------------------------------------


def style() -> str:
    """Colours and layout, all below one class so that nothing else on a page is touched."""
    light, dark = _shade_rules("relevance"), _shade_rules("relevance-dark")
    return f"{_STYLE}{light}@media (prefers-color-scheme:dark){{{_DARK}{dark}}}"


def _shade_rules(colours: str) -> str:
    table = shades(colours)
    rules = []
    for number in range(-STEPS, STEPS + 1):
        if number:
            ground, ink = table[number + STEPS]
            name = f"{'p' if number > 0 else 'n'}{abs(number)}"
            rules.append(f".relprop-text .{name}{{background:{_hex(ground)};color:{_hex(ink)}}}")
    stops = ",".join(_hex(table[i][0]) for i in range(0, 2 * STEPS + 1, 4))
    return "".join(rules) + f".relprop-text .bar{{background:linear-gradient(to right,{stops})}}"


def _hex(colour: tuple[int, int, int]) -> str:
    return "#" + "".join(f"{part:02x}" for part in colour)


_STYLE = """
.relprop-text{font:16px/1.5 system-ui,sans-serif;color:#1b1b1b;background:#fff}
.relprop-text h1{font-size:1.3em;margin:.4em 0}.relprop-text h2{font-size:1.05em;margin:1em 0 .3em}
.relprop-text .score,.relprop-text .sum{font-weight:400;color:#666}
.relprop-text .text{white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.8;font-weight:400}
.relprop-text .w{padding:.12em .14em;border-radius:.2em}
.relprop-text .mark{font-size:.72em;border:1px dotted #888;padding:.1em .3em;margin:0 .3em;
font-family:ui-monospace,monospace}
.relprop-text .said{outline:2px solid currentColor}
.relprop-text .legend{display:flex;flex-wrap:wrap;gap:.5em;align-items:center;font-size:.85em;margin:.4em 0}
.relprop-text .bar{display:inline-block;width:11em;height:.8em;border-radius:.2em;border:1px solid #999}
.relprop-text .empty{padding:.6em;background:repeating-linear-gradient(45deg,#ddd 0 6px,#fff 6px 12px);color:#000}
.relprop-text .candidates{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:.2em 1.2em;font-size:.9em}
.relprop-text meter{width:5em}.relprop-text small,.relprop-text .hint,.relprop-text .note{color:#666;font-size:.85em}
.relprop-text details{margin:.7em 0}.relprop-text summary{cursor:pointer}
.relprop-text table{border-collapse:collapse;font-size:.88em}
.relprop-text th,.relprop-text td{padding:.15em .6em;text-align:right;font-weight:400}
.relprop-text th.text{max-width:16em}
.relprop-text .words .track{width:14em;padding:0 .6em;text-align:left}
.relprop-text .words .track span{display:block;height:.8em;border-radius:.2em;min-width:1px}
.relprop-text .passages li{margin:.5em 0}.relprop-text a{color:inherit}
.relprop-text :target{outline:3px solid #d90}
.relprop-text .choice{position:absolute;opacity:0;width:1px;height:1px}
.relprop-text .choice+label{cursor:pointer;padding:.12em .3em;border:1px solid #bbb;border-radius:.25em;margin:.1em;
display:inline-block;white-space:pre-wrap;overflow-wrap:anywhere}
.relprop-text .choice:checked+label{background:#1b1b1b;color:#fff}
.relprop-text .choice:focus-visible+label{outline:3px solid #d90}
.relprop-text label.all{font-style:italic}
.relprop-text .panel{display:none}.relprop-text .panels{margin-top:.6em;border-top:1px solid #ccc}
.relprop-text .scroll{overflow-x:auto}
.relprop-text .matrix td{min-width:1.1em;height:1.3em;padding:0;border:1px solid rgba(128,128,128,.25)}
.relprop-text .matrix td.edge{border-left:2px solid currentColor}
.relprop-text .matrix th[scope=col]{vertical-align:bottom;padding:.1em}
.relprop-text .matrix th[scope=col] span{writing-mode:vertical-rl;transform:rotate(180deg);max-height:9em;
overflow:hidden;white-space:nowrap}
.relprop-text .matrix th[scope=row]{max-width:12em;overflow:hidden;text-overflow:ellipsis;white-space:nowrap;
position:sticky;left:0;background:inherit}
"""
_DARK = """
.relprop-text{color:#e6e6e6;background:#16181c}
.relprop-text .score,.relprop-text .sum,.relprop-text small,.relprop-text .hint,.relprop-text .note{color:#aaa}
.relprop-text .choice:checked+label{background:#e6e6e6;color:#111}
.relprop-text .empty{background:repeating-linear-gradient(45deg,#444 0 6px,#222 6px 12px);color:#fff}
"""
