"""From explanations to the text of one file: views chosen, numbers packed, everything else through the template."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np

from relprop.errors import InputError
from relprop.extras import require
from relprop.render import text_html
from relprop.render.files import png_bytes
from relprop.render.heatmap import enlarge, paint
from relprop.render.page import account
from relprop.render.page.views import Ground, Options, View, coarser, curve_points, make_ground, make_view, normal
from relprop.render.palette import DEFAULT, Colours, palette
from relprop.render.scale import Map, find_scale, is_signed
from relprop.render.text import visible

_MOST_VALUES = 1_600_000  # of all maps together, six of 512 x 512, which make 4 MB; beyond, blocks are summed
_MOST_OF_ONE = 2**22  # where there is one map alone: 2048 x 2048
_LOSSLESS = 200_000  # pixels of a photograph up to which it is kept as it is; beyond, as JPEG
_FALLBACK = 320  # side of the picture for readers without scripts
_SHOWN_ROWS = 20  # of a table, before the rest is folded


@dataclass(frozen=True)
class Head:
    """What the page says of itself."""

    title: str = ""
    subtitle: str = ""
    names: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    command: str = ""


@dataclass(frozen=True)
class Named:
    """An explanation with the names of its rules (or its own, where it was given one) and its target."""

    rules: str
    target: str
    explanation: Any
    own: bool = False


def write_page(explanation: Any, image: Any, head: Head, options: Options) -> str:
    """The page as text."""
    chosen = _named(explanation, options.sample, head.names)
    first = chosen[0].explanation
    ground = make_ground(first, image, options)
    views = [make_view(one.explanation, ground, options) for one in chosen]
    views = _bounded(views, options)
    parts = [_parts(one, view, options, head.names) for one, view in zip(chosen, views)]
    switches, labels = _switches(chosen)
    script = _read("report.js")
    context = {
        "title": head.title or _title(chosen),
        "subtitle": head.subtitle,
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "style": _read("report.css") + (text_html.style() if any(v.form == "text" for v in views) else ""),
        "ground": _ground(ground),
        "has_map": any(view.form == "map" for view in views),
        "several": len(views) > 1,
        "stage": _stage(views[0], ground),
        "switches": switches,
        "figures": _shared([part["figure"] for part in parts]),
        "predictions": _shared([part["prediction"] for part in parts]),
        "accounts": _shared([part["books"] for part in parts]),
        "plans": _shared([part["plan"] for part in parts]),
        "snippets": _shared([part["snippet"] for part in parts]),
        "command": head.command,
        "settings": [*account.versions(), *head.settings.items(), *_drawn(options, views)],
        "written": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "fallback": _fallback(views[0], options),
        "shown_rows": _SHOWN_ROWS,
        "data": _data(chosen, views, labels, ground, options),
    }
    return str(_environment().get_template("report.html.jinja").render(context))


# -- the explanations and their names ----------------------------------------------------------------------------------


def _named(explanation: Any, sample: int, names: Sequence[str]) -> list[Named]:
    if isinstance(explanation, Mapping):
        several = list(explanation.items())
    elif isinstance(explanation, Sequence) and not isinstance(explanation, str):
        several = [(None, one) for one in explanation]
    else:
        several = [(None, explanation)]
    if not several:
        raise InputError("there are no explanations to write a page of")
    found = []
    for key, one in several:
        target = account.target_name(one, sample, names)
        if isinstance(key, tuple) and len(key) == 2:
            found.append(Named(str(key[0]), str(key[1]), one))
        else:
            found.append(Named(_label(one) if key is None else str(key), target, one, key is not None))
    return found


def _label(explanation: Any) -> str:
    """A table's row by its label, anything else by its rules."""
    label = getattr(explanation, "label", None)
    return _rules(explanation) if label is None else f"row {label}"


def _rules(explanation: Any) -> str:
    name = getattr(explanation, "rules", None) or getattr(getattr(explanation, "plan", None), "composite", "relevance")
    return str(name).removesuffix("()")


def _title(chosen: Sequence[Named]) -> str:
    targets = list(dict.fromkeys(one.target for one in chosen if one.target))
    if not targets:
        return "Explanation"
    if len(targets) > 3:
        return f"Explanations of {len(targets)} targets"
    *others, last = targets
    return f"Explanation of {', '.join(others)} and {last}" if others else f"Explanation of {last}"


def _switches(chosen: Sequence[Named]) -> tuple[list[dict[str, Any]], list[tuple[int, ...]]]:
    """What is switched between, and the place of every view on each switch.

    Rules and targets are switches of their own where every pair of them is there once; otherwise there is one list.
    """
    rules = list(dict.fromkeys(one.rules for one in chosen))
    targets = list(dict.fromkeys(one.target for one in chosen))
    if len({(one.rules, one.target) for one in chosen}) == len(chosen) == len(rules) * len(targets):
        title = "Explanation" if any(one.own for one in chosen) else "Rules"
        switches = [{"key": "rules", "title": title, "items": rules}] if len(rules) > 1 else []
        switches += [{"key": "target", "title": "Target", "items": targets}] if len(targets) > 1 else []
        both = [(rules.index(one.rules), targets.index(one.target)) for one in chosen]
        places = [tuple(p for p, many in zip(pair, (rules, targets)) if len(many) > 1) for pair in both]
        return switches, places
    unique = len(rules) == len(chosen)
    items = [one.rules if unique or not one.target else f"{one.rules} · {one.target}" for one in chosen]
    return [{"key": "map", "title": "Explanation", "items": items}], [(i,) for i in range(len(chosen))]


def _shared(parts: Sequence[Any]) -> list[dict[str, Any]]:
    """Equal parts once, each with the views that it belongs to; where nothing is told, nothing stands."""
    found: list[dict[str, Any]] = []
    for number, part in enumerate(parts):
        if part is None or part == "":
            continue
        same = next((one for one in found if one["part"] == part), None)
        if same is None:
            found.append({"part": part, "views": [number]})
        else:
            same["views"].append(number)
    return found


def _parts(one: Named, view: View, options: Options, names: Sequence[str]) -> dict[str, Any]:
    return {
        "figure": _figure(view, one),
        "prediction": account.prediction(one.explanation, options.sample, names),
        "books": account.books(one.explanation),
        "plan": account.plan_table(one.explanation),
        "snippet": account.snippet(one.explanation, options.sample),
    }


# -- pictures ----------------------------------------------------------------------------------------------------------


def _bounded(views: list[View], options: Options) -> list[View]:
    """All maps with so many blocks summed that the page stays of a size that opens at once."""
    count = sum(view.values.size for view in views if view.form == "map")
    block = math.ceil(math.sqrt(count / (_MOST_VALUES if len(views) > 1 else _MOST_OF_ONE)))
    return [coarser(view, block, options) for view in views] if block > 1 else views


def _figure(view: View, one: Named) -> dict[str, Any] | None:
    """What stands in the page as it is; a map is drawn by the script."""
    if view.form == "map":
        return None
    if view.form == "picture":
        alt = f"relevance by {one.rules}" + (f" for {one.target}" if one.target else "")
        return {"form": "picture", "source": _url(png_bytes(_picture(view)), "image/png"), "alt": alt}
    if view.form == "text":
        return {"form": "text", "body": _markup(view.body)}
    return {"form": "table", **_features(view)}


def _picture(view: View) -> Colours:
    assert view.picture is not None  # a view of this form has one
    return view.picture


def _features(view: View) -> dict[str, Any]:
    """A table's rows, the strongest first."""
    values = view.values
    order = np.argsort(-np.abs(values), kind="stable").tolist()
    most = float(np.abs(values).max())
    rows = [(view.names[i], float(values[i]), f"{values[i]:+.4g}", "") for i in order]
    made = account.bars(rows, low=-most, high=most)
    given = [view.given[i] for i in order] if view.given else []
    return {"rows": made, "given": given, "empty": view.scale.empty, "sum": f"{float(values.sum()):.4g}"}


def _stage(view: View, ground: Ground) -> dict[str, Any]:
    return {"ratio": f"{view.ratio:.5g}", "curves": [] if ground.curves is None else curve_points(ground.curves)}


def _ground(ground: Ground) -> dict[str, Any]:
    """The photograph as it is kept: exactly where it is small."""
    if ground.photo is None:
        return {"source": "", "alt": ground.alt}
    exact = ground.photo.shape[0] * ground.photo.shape[1] <= _LOSSLESS
    source = _url(png_bytes(ground.photo), "image/png") if exact else _url(_jpeg(ground.photo), "image/jpeg")
    return {"source": source, "alt": ground.alt}


def _jpeg(photo: Colours) -> bytes:
    image = require("PIL.Image", "render", "writing a page")
    buffer = io.BytesIO()
    image.fromarray(photo).save(buffer, format="JPEG", quality=90, subsampling=0)
    return buffer.getvalue()


def _fallback(view: View, options: Options) -> str:
    """A small picture of the first map, for readers that run no scripts."""
    if view.form != "map":
        return ""
    height, width = view.values.shape
    share = min(1.0, _FALLBACK / max(height, width))
    size = (max(1, round(height * share)), max(1, round(width * share)))
    drawn = normal(view)
    return _url(png_bytes(paint(Map(enlarge(drawn.values, size), drawn.scale), options.colours)), "image/png")


def _url(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


# -- numbers for the script --------------------------------------------------------------------------------------------


def _data(
    chosen: Sequence[Named], views: Sequence[View], places: Sequence[tuple[int, ...]], ground: Ground, options: Options
) -> dict[str, Any]:
    maps = [view for view in views if view.form == "map"]
    common = find_scale([m.values for m in maps], percentile=options.percentile).limit if maps else 0.0
    tables = [_colours(options.colours, options)]
    if options.colours == DEFAULT:
        tables.append(_colours("relevance-dark", options))
    return {
        "views": [_view(one, view, place) for one, view, place in zip(chosen, views, places)],
        "common": common,
        "colours": tables,
        "photo": _reading(ground),
        "signal": _signal(ground),
    }


def _colours(name: Any, options: Options) -> str:
    """511 colours over the scale, three bytes each."""
    signed = is_signed(options.reduce)
    table = palette(name)(np.linspace(-1.0 if signed else 0.0, 1.0, 511), signed=signed)
    return base64.b64encode(table.tobytes()).decode()


def _view(one: Named, view: View, place: tuple[int, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {"rules": visible(one.rules), "target": visible(one.target)}
    found |= {"place": place, "form": view.form}
    if view.form != "map":
        return found
    values, scale = view.values, view.scale
    strongest = np.unravel_index(int(np.abs(values).argmax()), values.shape)
    top = float(np.abs(values).max())
    return {
        **found,
        "rows": values.shape[0],
        "columns": values.shape[1],
        "shape": view.shape,
        "block": view.block,
        "axes": view.axes,
        "ratio": view.ratio,
        "limit": scale.limit,
        "signed": scale.signed,
        "top": top,
        "sum": f"{float(values.sum()):.4g}",
        "scale": str(scale),
        "strongest": [int(i) for i in strongest],
        "values": pack(values / top if top else values),
    }


def _reading(ground: Ground) -> dict[str, Any] | None:
    """What a pixel's colour says of the input, and a sum by which the page sees whether it reads what was written."""
    if ground.photo is None:
        return None
    height, width = ground.photo.shape[:2]
    return {
        "low": ground.low,
        "high": ground.high,
        "grey": ground.grey,
        "exact": height * width <= _LOSSLESS,
        "sum": int(ground.photo.sum(dtype=np.int64)),
        "size": [height, width],
    }


def _signal(ground: Ground) -> dict[str, Any] | None:
    """The curves' values for the read-out, where they are not too many."""
    if ground.curves is None or ground.curves.size > _MOST_VALUES:
        return None
    top = float(np.abs(ground.curves).max()) or 1.0
    rows, columns = ground.curves.shape
    return {"rows": rows, "columns": columns, "top": top, "values": pack(ground.curves / top)}


def pack(values: np.ndarray) -> str:
    """Values in [-1, 1] as text: half floats (three digits), all high bytes before all low ones, which packs well."""
    halves = values.astype("<f2").view(np.uint8).reshape(-1, 2)
    return base64.b64encode(zlib.compress(halves[:, ::-1].T.tobytes(), 6)).decode()


# -- the template ------------------------------------------------------------------------------------------------------


def _drawn(options: Options, views: Sequence[View]) -> list[tuple[str, str]]:
    if not any(view.form == "map" for view in views):
        return []
    rows = [("channels to one number", options.reduce), ("scale ends at percentile", f"{options.percentile:g}")]
    if options.smooth:
        rows.append(("smoothed by", f"{options.smooth:g} pixels"))
    blocks = {view.block for view in views}
    if blocks != {1}:
        rows.append(("each value drawn", f"the sum of {max(blocks)} x {max(blocks)} of the relevance's"))
    return rows


def _read(name: str) -> str:
    return files("relprop.render.page").joinpath(name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _environment() -> Any:
    """Every value is escaped, and signs that would steer the display are shown."""
    jinja2 = require("jinja2", "render", "writing a page")
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(_read),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shown(value: Any) -> Any:
    return visible(value) if type(value) is str else value


def _markup(text: str) -> Any:
    """HTML that `text_html` has escaped already."""
    return require("markupsafe", "render", "writing a page").Markup(text)
