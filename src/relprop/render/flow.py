"""Where relevance goes on its way down: by layer, and in the books of the whole explanation.

At a layer through which everything passes, the sum of relevance is the seed less what the layers above absorbed. At
a layer beside which a path leads (a residual branch, one of two towers) the difference also holds what took that
path, so it is called "not here" and never a loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from relprop.errors import InputError
from relprop.render.explanation import target_text, tensors
from relprop.render.figure import new_figure, write
from relprop.render.palette import DEFAULT, Palette, palette
from relprop.render.row import tick_texts
from relprop.render.scale import as_array, check_count
from relprop.render.text import visible

Row = tuple[str, float, float]
#: What the entries of the books are called, and the colour of each: neither of the two that stand for relevance.
ENTRIES = {
    "bias": ("biases", "#7a5195"),
    "epsilon": ("stabilisers", "#e3a51a"),
    "constants": ("constants and cuts", "#3c9d8f"),
    "excess": ("rules that do not conserve", "#6b6b6b"),
    "excluded": ("left out by conditions", "#c9c9c9"),
}
_LONGEST = 44
_ROUNDING = 1e-6  # of the absolute relevance: too little to be drawn


def layer_rows(explanation: Any) -> list[Row]:
    """(layer, positive, negative) from the output down: the sums of relevance of either sign at each layer asked for.

    The first row is the seed, the last ones are the explained inputs. A module that ran several times has a row for
    each time.

    Raises:
        InputError: for relevance that is not finite, with the layer's name.
    """
    seed = float(explanation.audit.seed)
    rows = [("output", max(seed, 0.0), min(seed, 0.0))]
    for path, found in reversed(list(explanation.layers.items())):
        runs = list(enumerate(found)) if isinstance(found, list) else [(None, found)]
        for run, relevance in reversed(runs):
            name = (path or "(model)") + ("" if run is None else f" #{run}")
            rows.append(_row(name, [t for _, t in tensors(relevance)]))
    inputs = list(tensors(explanation.relevance))
    for name, relevance in inputs:
        rows.append(_row(f"input {name}".strip() if len(inputs) > 1 else "input", [relevance]))
    return rows


def absorbed_rows(plan: Any, books: Mapping[int, Mapping[str, float]], layers: Sequence[str]) -> dict[str, Any]:
    """What the sites within each layer absorbed, by entry of the books; what lies in none of them is "elsewhere".

    A site counts for the longest path that holds it.

    Args:
        plan: its sites are numbered in order of execution.
        books: the amounts of each entry, by the site's number.
        layers: paths of modules.
    """
    found: dict[str, dict[str, float]] = {}
    for site, _ in plan:
        holding = [layer for layer in layers if any(_within(path, layer) for path in site.paths)]
        name = max(holding, key=len) if holding else "elsewhere"
        for entry in ENTRIES:
            amount = float(books.get(site.index, {}).get(entry, 0.0))
            if amount:
                found.setdefault(name, {}).setdefault(entry, 0.0)
                found[name][entry] += amount
    return found


def flow(
    explanation: Any,
    *,
    books: Mapping[int, Mapping[str, float]] | None = None,
    count: int = 40,
    title: str | None = None,
    colours: str | Palette = DEFAULT,
) -> Any:
    """Relevance by layer, from the output down to the input, and below it the books that say where the rest went.

    Args:
        explanation: made with ``layers=``: those are drawn.
        books: what every site absorbed (see `absorbed_rows`), drawn beside the layers; by default the audit's, where
            it kept them (``audit="sites"``).
        count: layers at most; of more, that many are drawn, evenly chosen, and it is said.
        title: by default what was explained.

    Returns:
        A matplotlib Figure.
    """
    if not hasattr(explanation, "audit"):
        raise InputError(f"the flow is drawn of an explanation, got {type(explanation).__name__}")
    if not explanation.audit.conserving:
        raise InputError(
            f"{explanation.plan.composite} is a gradient method: its maps are no relevance, which flows nowhere"
        )
    rows = layer_rows(explanation)
    inputs = sum(1 for _ in tensors(explanation.relevance))
    layers, note = _evenly(rows[1 : len(rows) - inputs], count)
    rows = [rows[0], *layers, *rows[len(rows) - inputs :]]
    books = getattr(explanation.audit, "books", None) if books is None else books
    absorbed = absorbed_rows(explanation.plan, books, list(explanation.layers)) if books else {}
    absorbed = {name: kept for name, amounts in absorbed.items() if (kept := _seen(amounts, explanation.audit.scale))}
    entries = _books_rows(explanation.audit)
    if title is None:
        title = " · ".join(p for p in (target_text(explanation), str(explanation.plan.composite)) if p) + note

    lines = len(rows) + ("elsewhere" in absorbed)
    heights = (0.22 * lines, 0.22 * len(entries))
    figure = new_figure(7.4 if absorbed else 6.0, 1.5 + sum(heights))
    grid = figure.add_gridspec(
        2, 2 if absorbed else 1, height_ratios=heights, width_ratios=(3, 2) if absorbed else (1,)
    )
    upper = figure.add_subplot(grid[0, 0])
    _draw_layers(upper, rows, explanation.audit.seed, colours)
    write(upper, title, "relevance at the layer: positive, negative, and their sum (mark)")
    if absorbed:
        if "elsewhere" in absorbed:
            rows = [*rows, ("elsewhere", 0.0, 0.0)]
            tick_texts(upper, [_name(name) for name, _, _ in rows])
            upper.set_ylim(len(rows) - 0.5, -0.5)
        beside = figure.add_subplot(grid[0, 1], sharey=upper)
        _draw_absorbed(beside, [name.partition(" #")[0] for name, _, _ in rows], absorbed)
    lower = figure.add_subplot(grid[1, :])
    _draw_books(lower, entries, explanation.audit.seed, colours)
    verdict = "balanced" if explanation.audit.balanced else "NOT BALANCED"
    write(lower, "", f"where the seed went ({verdict})")
    return figure


def audit_bars(audit: Any, *, title: str = "", colours: str | Palette = DEFAULT) -> Any:
    """The books of an explanation: the seed, and what it went to, each bar beginning where the last one ended.

    Args:
        audit: an explanation's, or the explanation.

    Returns:
        A matplotlib Figure.
    """
    audit = getattr(audit, "audit", audit)
    if not hasattr(audit, "conserving"):
        raise InputError(f"give an audit or an explanation, got {type(audit).__name__}")
    if not audit.conserving:
        raise InputError("the audit is of a gradient method, which has no books to draw")
    entries = _books_rows(audit)
    figure = new_figure(6.0, 0.8 + 0.24 * len(entries))
    axis = figure.subplots()
    _draw_books(axis, entries, audit.seed, colours)
    write(axis, title, "balanced" if audit.balanced else "NOT BALANCED")
    return figure


# -- what is drawn -----------------------------------------------------------------------------------------------------


def _row(name: str, parts: Sequence[Any]) -> Row:
    arrays = [as_array(part, f"relevance at {name}") for part in parts]
    return (
        name,
        float(sum(np.maximum(a, 0).sum() for a in arrays)),
        float(sum(np.minimum(a, 0).sum() for a in arrays)),
    )


def _within(path: str, layer: str) -> bool:
    return path == layer or path.startswith(f"{layer}.")


def _evenly(rows: list[Row], count: int) -> tuple[list[Row], str]:
    check_count(count, "count")
    if len(rows) <= count:
        return rows, ""
    chosen = np.linspace(0, len(rows) - 1, count).round().astype(int)
    return [rows[i] for i in chosen], f" · {count} of {len(rows)} layers, evenly chosen"


def _seen(amounts: Mapping[str, float], scale: float) -> dict[str, float]:
    """The amounts that are more than rounding."""
    return {entry: amount for entry, amount in amounts.items() if abs(amount) > _ROUNDING * scale}


def _books_rows(audit: Any) -> list[tuple[str, float, str]]:
    """(entry, amount, colour); what is rounding is left out, but for the inputs."""
    rows = [(f"input {name}", float(value), "") for name, value in audit.inputs.items()]
    rows += [(f"leaf {name}", float(value), "") for name, value in audit.leaves.items()]
    for entry, (word, colour) in ENTRIES.items():
        amount = float(getattr(audit, entry))
        if abs(amount) > _ROUNDING * audit.scale:
            rows.append((word, amount, colour))
    rest = float(audit.unexplained)
    if audit.unexplained_share > audit.tolerance:
        rows.append(("unexplained", rest, "#d03020"))
    return rows


def _name(text: str) -> str:
    """A path's end, which tells it from its neighbours."""
    text = visible(text)
    return text if len(text) <= _LONGEST else "…" + text[1 - _LONGEST :]


# -- how it is drawn ---------------------------------------------------------------------------------------------------


def _draw_layers(axis: Any, rows: Sequence[Row], seed: float, colours: str | Palette) -> None:
    ends = palette(colours)(np.array([-0.85, 0.85])) / 255
    places = range(len(rows))
    axis.barh(places, [p for _, p, _ in rows], color=tuple(ends[1]), height=0.72)
    axis.barh(places, [n for _, _, n in rows], color=tuple(ends[0]), height=0.72)
    sums = [p + n for _, p, n in rows]
    axis.plot(sums, places, linestyle="", marker="|", markersize=9, markeredgewidth=1.6, color="black")
    axis.axvline(0, color="black", linewidth=0.6)
    axis.axvline(seed, color="#666666", linewidth=0.6, linestyle=(0, (3, 2)))
    _lay_out(axis, [name for name, _, _ in rows])
    reach = [p for _, p, _ in rows] + [n for _, _, n in rows] + [seed]
    low, high = min(0.0, *reach), max(0.0, *reach)
    room = (high - low) or 1.0
    axis.set_xlim(low - 0.03 * room if low else -0.02 * room, high + 0.24 * room)
    for place, (total, (_, positive, _)) in enumerate(zip(sums, rows, strict=True)):
        share = f" ({_percent(total, seed)})" if seed and place else ""
        axis.annotate(
            f"{total:+.3g}{share}",
            (max(positive, total, 0.0), place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=6,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.8},
        )


def _draw_absorbed(axis: Any, names: Sequence[str], absorbed: Mapping[str, Mapping[str, float]]) -> None:
    """Amounts by entry, the positive ones stacked to the right, the negative ones to the left."""
    drawn: set[str] = set()
    for name, amounts in absorbed.items():
        place = max(i for i, other in enumerate(names) if other == name) if name in names else len(names) - 1
        right = left = 0.0
        for entry, amount in amounts.items():
            word, colour = ENTRIES[entry]
            start = right if amount > 0 else left
            axis.barh(place, amount, left=start, color=colour, height=0.72, label=None if entry in drawn else word)
            drawn.add(entry)
            right, left = (right + amount, left) if amount > 0 else (right, left + amount)
    axis.axvline(0, color="black", linewidth=0.6)
    axis.tick_params(axis="y", left=False, labelleft=False)
    axis.tick_params(axis="x", labelsize=6)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    write(axis, caption="absorbed inside the layer")
    axis.legend(fontsize=6, frameon=False, loc="best")


def _draw_books(axis: Any, entries: Sequence[tuple[str, float, str]], seed: float, colours: str | Palette) -> None:
    ends = palette(colours)(np.array([-0.85, 0.85])) / 255
    axis.barh(0, seed, color="#333333", height=0.72)
    left, reach = seed, [0.0, seed]
    for place, (_, amount, colour) in enumerate(entries, 1):
        axis.barh(place, -amount, left=left, color=colour or tuple(ends[int(amount >= 0)]), height=0.72)
        left -= amount
        reach.append(left)
    axis.axvline(0, color="black", linewidth=0.6)
    _lay_out(axis, ["seed", *(name for name, _, _ in entries)])
    low, high = min(reach), max(reach)
    room = (high - low) or 1.0
    axis.set_xlim(low - 0.03 * room, high + 0.24 * room)
    left = seed
    for place, (amount, right) in enumerate(_ends(seed, entries)):
        share = f" ({_percent(amount, seed)})" if seed and place else ""
        axis.annotate(
            f"{amount:+.4g}{share}", (right, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=6
        )


def _percent(amount: float, seed: float) -> str:
    return f"{round(100 * amount / seed, 1) + 0.0:g} %"  # + 0.0: no minus before a zero


def _ends(seed: float, entries: Sequence[tuple[str, float, str]]) -> Iterator[tuple[float, float]]:
    """Each amount, with the right end of its bar."""
    yield seed, max(seed, 0.0)
    left = seed
    for _, amount, _ in entries:
        yield amount, max(left, left - amount)
        left -= amount


def _lay_out(axis: Any, names: Sequence[str]) -> None:
    tick_texts(axis, [_name(name) for name in names])
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=6)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
