"""What a notebook shows below a cell: explanations, plans, audits and results of tables as HTML.

Nothing comes from outside, nothing is run, and every text is escaped. Colours are the notebook's own, light or dark,
but for what stands for relevance.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from relprop.errors import RelpropError
from relprop.render.explanation import picture, target_text
from relprop.render.figure import pixels
from relprop.render.files import png_bytes
from relprop.render.palette import DEFAULT, palette
from relprop.render.row import GREY, value_text
from relprop.render.text import visible

_MOST = 15  # features of a table
_STYLE = """<style>
.relprop-note { font: 13px/1.45 system-ui, sans-serif; max-width: 62rem; }
.relprop-note .head { font-weight: 600; margin: .3em 0; overflow-wrap: anywhere; }
.relprop-note p { margin: .3em 0; overflow-wrap: anywhere; }
.relprop-note .wide { overflow-x: auto; }
.relprop-note .tall { overflow: auto; max-height: 28em; }
.relprop-note table { border-collapse: collapse; margin: .3em 0; }
.relprop-note th, .relprop-note td { text-align: left; padding: .12em .9em .12em 0; vertical-align: top;
  border-bottom: 1px solid rgba(128, 128, 128, .35); background: none; font-variant-numeric: tabular-nums; }
.relprop-note td.number { text-align: right; white-space: nowrap; }
.relprop-note td.track { width: 12rem; min-width: 6rem; padding-right: 0; }
.relprop-note .bar { display: block; height: .75em; margin-top: .3em; min-width: 1px; }
.relprop-note .bad { font-weight: 700; color: #d03020; }
.relprop-note summary { cursor: pointer; margin: .3em 0; }
.relprop-note img { max-width: 100%; height: auto; background: white; }
</style>"""


def explanation(found: Any) -> str:
    """An explanation: its picture, and folded below it the books and the rules."""
    heading = " · ".join(part for part in (target_text(found), f"by {found.plan.composite}") if part)
    parts = [_head(f"Explanation: {heading}"), _drawn(lambda: _with_input(found), f"relevance, {heading}")]
    parts.append(_fold(f"audit: {_verdict(found.audit)}", _books(found.audit), not found.audit.balanced))
    parts.append(_fold(f"plan: {len(found.plan)} operations and their rules", _rules(found.plan)))
    return _note(parts)


def plan(found: Any) -> str:
    """A plan: how many operations of each kind get which rule, and folded below them every one with its reason."""
    return _note([_head(f"{found.composite}: {len(found)} operations"), _rules(found)])


def audit(found: Any) -> str:
    """The books of an explanation as bars: where every unit of relevance went."""
    return _note([_head(f"Audit: {_verdict(found)}"), _books(found)])


def row(found: Any) -> str:
    """One row of a table: its strongest features with their values."""
    strongest = found.top(_MOST)
    given = dict(zip(found.names, found.values.reshape(-1).tolist(), strict=True))
    lines = [(name, given[name], relevance) for name, relevance in strongest]
    others = float(found.relevance.sum()) - sum(relevance for _, relevance in strongest)
    if found.relevance.size > len(strongest):
        lines.append((f"{found.relevance.size - len(strongest)} others together", "", others))
    lines.append(("biases and stabilisers", "", found.delta))
    label = "" if found.label is None else f"row {found.label} · "
    heading = f"{label}{found.target_name}: {found.output:.4g}, explained by {found.rules}"
    return _note([_head(heading), _bars(lines, ("feature", "value", "relevance", ""), ("output", found.output))])


def rows(found: Any) -> str:
    """Many rows: the features of most mean strength, and the beeswarm where it can be drawn."""
    if not len(found):
        return _note([_head("no rows were explained")])
    strengths = found.mean_strength()
    lines = [(name, "", strength) for name, strength in strengths[:_MOST]]
    heading = f"{len(found)} rows explained by {found[0].rules}: mean strength of features"
    more = f"{len(strengths) - _MOST} more features" if len(strengths) > _MOST else ""
    parts = [_head(heading), _bars(lines, ("feature", "", "mean |relevance|", ""), signed=False), _line(more)]
    return _note([*parts, _fold("every row", _drawn(lambda: found.picture(_MOST), "beeswarm of all rows"), True)])


def comparison(found: Any) -> str:
    """One row under several rules."""
    heading = f"one row under {len(found)} rules"
    return _note([_head(heading), _drawn(lambda: found.picture(_MOST), f"a table of colours, {heading}")])


def _with_input(found: Any) -> Any:
    """The picture, beside what was explained where that is images: how they were normalised is not known here."""
    x, relevance = found.inputs, found.relevance
    alike = isinstance(x, torch.Tensor) and isinstance(relevance, torch.Tensor) and x.shape == relevance.shape
    if not (alike and x.ndim == 4 and x.shape[1] in (1, 3) and x.is_floating_point()):
        return picture(found, title="")
    x = x.detach().float()
    low, high = (x.flatten(1).aminmax(dim=1)[i][:, None, None, None] for i in (0, 1))
    stretched = (x - low) / (high - low).clamp(min=torch.finfo(x.dtype).tiny)
    return picture(found, image=list(stretched), title="", photo_title="input, stretched to its range")


def note(text: str) -> str:
    """A line of text, as for what cannot be shown."""
    return _note([_line(text)])


# -- parts -------------------------------------------------------------------------------------------------------------


def escape(text: object) -> str:
    """Text for any place in a page, attributes too."""
    return html.escape(visible(str(text)), quote=True)


def _note(parts: Iterable[str]) -> str:
    return f'{_STYLE}<div class="relprop-note">{"".join(parts)}</div>'


def _head(text: object) -> str:
    return f'<p class="head">{escape(text)}</p>'


def _line(text: object) -> str:
    return f"<p>{escape(text)}</p>" if text else ""


def _fold(summary: str, content: str, unfolded: bool = False) -> str:
    return f"<details{' open' if unfolded else ''}><summary>{escape(summary)}</summary>{content}</details>"


def _drawn(draw: Any, alternative: str) -> str:
    """A picture, or the reason why there is none: a display raises nothing."""
    try:
        drawn = pixels(draw())
    except RelpropError as error:
        return _line(f"no picture: {error}")
    data = base64.b64encode(png_bytes(drawn)).decode()
    width = round(drawn.shape[1] / 1.5)  # drawn at 150 dots an inch, shown at 100
    return f'<img width="{width}" alt="{escape(alternative)}" src="data:image/png;base64,{data}">'


def _table(lines: Iterable[Sequence[str]], header: Sequence[str], kind: str = "wide") -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return f'<div class="{kind}"><table><tr>{head}</tr>{body}</table></div>'


def _bars(
    lines: Sequence[tuple[str, Any, float]],
    header: Sequence[str],
    total: tuple[str, float] | None = None,
    *,
    signed: bool = True,
) -> str:
    """Lines of (name, value, number), each number with a bar on one scale, and what they add up to."""
    span = max((abs(number) for _, _, number in lines if np.isfinite(number)), default=0.0)
    ends = palette(DEFAULT)(np.array([-0.85, 0.85])).tolist()
    body = []
    for name, value, number in lines:
        share = 100 * abs(number) / span if span and np.isfinite(number) else 0.0
        colour = "rgb({} {} {})".format(*ends[int(number >= 0)]) if signed else GREY
        bar = f'<span class="bar" style="width: {share:.1f}%; background: {colour}"></span>' if number else ""
        body.append(_numbers(name, "" if value == "" else value_text(value), f"{number:{'+' * signed}.4g}", bar))
    if total is not None:
        body.append(_numbers(total[0], "", f"{total[1]:+.4g}", ""))
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(body)}</table></div>'


def _numbers(name: str, value: str, number: str, bar: str) -> str:
    return (
        f'<tr><td>{escape(name)}</td><td class="number">{escape(value)}</td>'
        f'<td class="number">{escape(number)}</td><td class="track">{bar}</td></tr>'
    )


def _verdict(found: Any) -> str:
    if not found.conserving:
        return "a gradient method, whose map is not relevance"
    return "balanced" if found.balanced else "NOT BALANCED"


def _books(found: Any) -> str:
    if not found.conserving:
        return _line("its map is not relevance, and nothing is conserved")
    base = abs(found.seed) or 1.0
    lines = [(name, f"{round(100 * value / base, 2) + 0.0:g} %", value) for name, value in found.rows()]
    unexplained = (
        f"unexplained is {found.unexplained_share:.1e} of the absolute relevance (tolerated {found.tolerance:.0e})"
    )
    verdict = _line(unexplained) if found.balanced else f'<p class="bad">{escape(unexplained)}</p>'
    further = [f"cut: {path or '(model)'}.{name}" for path, name in found.cuts]
    further += [f"native gradient by request: {name}" for name in found.native]
    further += [f"note: {text}" for text in found.notes]
    further += [f"worst site: {name} {value:+.3g}" for name, value in found.worst]
    return _bars(lines, ("entry", "of the seed", "relevance", "")) + verdict + "".join(map(_line, further))


def _rules(found: Any) -> str:
    counts: dict[tuple[str, str], int] = {}
    for site, decision in found:
        key = (site.kind, str(decision.rule))
        counts[key] = counts.get(key, 0) + 1
    short = _table([(str(n), kind, rule) for (kind, rule), n in counts.items()], ("sites", "kind", "rule"))
    whole = _table(found.rows(), ("site", "kind", "rule", "why"), "tall")
    return short + "".join(map(_line, found.remarks())) + _fold("every operation", whole)
