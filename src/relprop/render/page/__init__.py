"""Explanations as one page that opens from disk: the input, the prediction, maps to switch between, books and plan.

Bottom up: `views` (what is shown of one explanation), `account` (what is told beside it), `document` (both into one
file). The page is whole in itself: no script, style or picture comes from elsewhere, and its own policy forbids it to
ask, or to run any script but its own. Every text that comes from outside is escaped. Its controls are the browser's
own, so they work with the keyboard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from relprop.extras import require
from relprop.render.explanation import Kind
from relprop.render.figure import PERCENTILE
from relprop.render.files import check_destination, write_atomically
from relprop.render.palette import DEFAULT, Palette, palette
from relprop.render.scale import Reduction, check_options

SUFFIXES = (".html", ".htm")


def to_html(
    explanation: Any,
    path: str | Path,
    image: Any = None,
    *,
    title: str = "",
    subtitle: str = "",
    names: Sequence[str] | None = None,
    sample: int = 0,
    reduce: Reduction = "sum",
    colours: str | Palette = DEFAULT,
    percentile: float = PERCENTILE,
    smooth: float = 0.0,
    kind: Kind | None = None,
    which: str | int | None = None,
    tokens: Sequence[str] | None = None,
    features: Sequence[str] | None = None,
    settings: Mapping[str, object] | None = None,
    command: str = "",
    **options: Any,
) -> Path:
    """Write one page for one explanation, or for several to switch between.

    Args:
        explanation: what `LRP.explain` returned (or relevance itself, a text's or a table row's result); several as
            a list, or as a dict by name. A name may be a pair (rules, target): the page then has a switch for each.
        path: ends in .html; its folder must be there.
        image: what was explained, in its own units: the photograph as it looked before it was normalised, or the
            signal. By default the explanation's own input is shown; False shows none.
        title, subtitle: at the head; any text.
        names: of the output's classes.
        sample: of a batch, the one to show.
        reduce, colours, percentile, smooth: see `heatmap`.
        kind, which: see `picture`.
        tokens: what was explained as words, one for each row of the relevance [N, T] or [N, T, D].
        features: names for the relevance [N, F] of a table's row.
        settings: more to list beside the versions.
        command: the line that makes this page again, shown to be copied.
        options: for what is drawn by matplotlib (volumes), those of `picture`.

    Returns:
        The path. Maps of more than 1.6 million values in all (one alone: four) are shown with blocks of values summed
        into one, and the page says so.

    Raises:
        InputError: for another suffix, a folder that is not there, no explanations, names or tokens that do not match
            in number, or maps that cannot be drawn (not finite, empty, of other proportions than the photograph).
    """
    path = check_destination(path, SUFFIXES, "a page")
    check_options(reduce, percentile, smooth)
    palette(colours)
    require("jinja2", "render", "writing a page")
    from relprop.render.page.document import Head, write_page
    from relprop.render.page.views import Options

    how = Options(sample, reduce, colours, percentile, smooth, which, kind, tokens, features, options)
    listed = {str(k): str(v) for k, v in (settings or {}).items()}
    head = Head(title, subtitle, tuple(names or ()), listed, command)
    return write_atomically(path, write_page(explanation, image, head, how).encode("utf-8", "replace"))
