"""An explanation as one page that opens from disk: maps over the photograph, the audit, the plan, the settings.

The page is whole in itself: no script, style or picture comes from elsewhere, and its own policy forbids it
    to ask.
Every text that comes from outside is escaped. Its controls are the browser's own, so they work with the
keyboard.
"""

from __future__ import annotations

import base64
import html
import json
import platform
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from relprop.errors import InputError
from relprop.render.explanation import choose_input, picture
from relprop.render.figure import PERCENTILE, pixels
from relprop.render.files import png_bytes, write_atomically
from relprop.render.heatmap import as_photo, check_sizes, paint, smooth_values
from relprop.render.palette import DEFAULT, Colours, Palette, palette
from relprop.render.scale import Map, Reduction, find_scale, is_signed, spatial

_MOST_VALUES = 1024 * 1024  # pixels up to which the page holds the values themselves, for the read-out


def to_html(
    explanation: Any,
    path: str | Path,
    image: Any = None,
    *,
    title: str = "",
    subtitle: str = "",
    sample: int = 0,
    reduce: Reduction = "sum",
    colours: str | Palette = DEFAULT,
    percentile: float = PERCENTILE,
    smooth: float = 0.0,
    **options: Any,
) -> Path:
    """Write one page for one explanation, or for several to switch between.

    Args:
        explanation: what `LRP.explain` returned, or a dict of them by name.
        path: ends in .html; its folder must be there.
        image: the photograph as it looked before it was normalised; the maps lie over it.
        title, subtitle: at the head; any text.
        sample: of a batch, the one to show.
        reduce, colours, percentile, smooth: see `heatmap`.
        options: for what is not an image, those of `picture`.

    Raises:
        InputError: for another suffix, a folder that is not there, no explanations, or maps that cannot be
            drawn.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{path}: a page is written as .html")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}")
    several = explanation if isinstance(explanation, dict) else {_name(explanation): explanation}
    if not several:
        raise InputError("there are no explanations to write a page of")
    photo = None if image is None else as_photo(image)
    views = [
        _view(str(name), one, photo, sample, reduce, colours, percentile, smooth, options)
        for name, one in several.items()
    ]
    first = next(iter(several.values()))
    settings = {
        "relprop": version("relprop"),
        "torch": version("torch"),
        "Python": platform.python_version(),
        "written": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "channels": reduce,
        "clipped above the percentile": f"{percentile:g}",
        "smoothed by": f"{smooth:g} pixels" if smooth else "nothing",
    }
    text = _page(
        title or f"Explanation of {_target(first)}",
        subtitle,
        views,
        photo,
        palette(colours),
        settings,
    )
    return write_atomically(path, text.encode())


def _name(explanation: Any) -> str:
    return str(getattr(getattr(explanation, "plan", None), "composite", "relevance")).removesuffix("()")


def _target(explanation: Any) -> str:
    target = getattr(explanation, "target", None)
    text = str(getattr(target, "tolist", lambda: target)())
    return f"target {text}" if len(text) < 60 else "the chosen target"


def _view(
    name: str,
    explanation: Any,
    photo: Colours | None,
    sample: int,
    reduce: Reduction,
    colours: str | Palette,
    percentile: float,
    smooth: float,
    options: dict[str, Any],
) -> dict[str, Any]:
    """What the page shows of one explanation."""
    _, relevance = choose_input(getattr(explanation, "relevance", explanation), options.get("which"))
    view: dict[str, Any] = {"name": name, "audit": _audit(explanation), "plan": _plan(explanation)}
    if relevance.ndim != 4:
        drawn = picture(explanation, sample=sample, **options)
        return {**view, "picture": pixels(drawn), "layered": False}
    if not 0 <= sample < len(relevance):
        raise InputError(f"sample {sample} is out of range: there are {len(relevance)}")
    values = smooth_values(spatial(relevance[sample], reduce), smooth)
    if photo is not None:
        check_sizes(values.shape, photo.shape)
    scale = find_scale(values, signed=is_signed(reduce), percentile=percentile)
    drawn_map = Map(values, scale)
    return {
        **view,
        "picture": paint(drawn_map, colours),
        "layered": True,
        "values": values if values.size <= _MOST_VALUES else None,
        "scale": scale,
        "sum": float(values.sum()),
    }


def _audit(explanation: Any) -> list[tuple[str, str]]:
    audit = getattr(explanation, "audit", None)
    if audit is None:
        return []
    if not audit.conserving:
        return [("", "a gradient method: its map is not relevance, and nothing is conserved")]
    rows = [(label, f"{value:.5g}") for label, value in audit.rows()]
    verdict = "balanced" if audit.balanced else "NOT BALANCED"
    return [*rows, (verdict, f"{audit.unexplained_share:.1e} of the absolute relevance is unexplained")]


def _plan(explanation: Any) -> list[tuple[str, ...]]:
    plan = getattr(explanation, "plan", None)
    return [] if plan is None else [tuple(map(str, row)) for row in plan.rows()]


def _data(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _table(rows: Iterable[Sequence[str]], header: Sequence[str] = ()) -> str:
    head = "".join(f"<th scope=col>{html.escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class=wide><table>{f'<tr>{head}</tr>' if head else ''}{body}</table></div>"


def _values(view: dict[str, Any]) -> dict[str, Any] | None:
    """Values for the read-out, as whole numbers of a 32767th of the strongest."""
    values = view.get("values")
    if values is None:
        return None
    top = float(np.abs(values).max())
    whole = np.round(values / (top or 1.0) * 32767).astype("<i2")
    data = base64.b64encode(whole.tobytes()).decode()
    return {"top": top, "height": values.shape[0], "width": values.shape[1], "data": data}


def _bar(view: dict[str, Any], colours: Palette) -> str:
    scale = view.get("scale")
    if scale is None:
        return ""
    if scale.empty:
        return "<p>no relevance: every value is zero</p>"
    stops = colours(np.linspace(-1.0 if scale.signed else 0.0, 1, 21), signed=scale.signed)
    gradient = ", ".join(f"rgb({r} {g} {b})" for r, g, b in stops.tolist())
    low = f"{-scale.limit:.3g}" if scale.signed else "0"
    middle = "<span>0</span>" if scale.signed else ""
    return (
        f'<div class=bar style="background: linear-gradient(to right, {gradient})"></div>'
        f"<div class=ticks><span>{low}</span>{middle}<span>+{scale.limit:.3g}</span></div>"
        f"<p>scale {html.escape(str(scale))}; sum {view['sum']:.4g}</p>"
    )


def _page(
    title: str,
    subtitle: str,
    views: list[dict[str, Any]],
    photo: Colours | None,
    colours: Palette,
    settings: dict[str, str],
) -> str:
    layered = all(view["layered"] for view in views)
    first = views[0]["picture"]
    height, width = (photo if photo is not None and layered else first).shape[:2]
    choices = "".join(
        f"<label><input type=radio name=map value={i}{' checked' if i == 0 else ''}> "
        f"{html.escape(view['name'])}</label>"
        for i, view in enumerate(views)
    )
    pictures = "".join(
        f'<img class=map data-map={i}{"" if i == 0 else " hidden"} alt="relevance by {html.escape(view["name"])}" '
        f'src="{_data(png_bytes(view["picture"]), "image/png")}">'
        for i, view in enumerate(views)
    )
    under = ""
    sliders = ""
    if photo is not None and layered:
        under = f'<img class=photo alt="what was explained" src="{_data(png_bytes(photo), "image/png")}">'
        sliders = (
            "<label>opacity <input type=range id=opacity min=0 max=100 value=70></label>"
            "<label>zoom <input type=range id=zoom min=100 max=400 value=100></label>"
        )
    details = "".join(
        f"<section data-details={i}{'' if i == 0 else ' hidden'}>{_bar(view, colours)}"
        + (f"<h2>Where the relevance went</h2>{_table(view['audit'])}" if view["audit"] else "")
        + (
            f"<details><summary>The plan: {len(view['plan'])} operations and their rules</summary>"
            f"{_table(view['plan'], ('site', 'kind', 'rule', 'why'))}</details>"
            if view["plan"]
            else ""
        )
        + "</section>"
        for i, view in enumerate(views)
    )
    # In a script element nothing is escaped; "<" is written so that no text can end the element.
    values = json.dumps([_values(view) for view in views]).replace("<", "\\u003c")
    return _TEMPLATE.format(
        title=html.escape(title),
        subtitle=f"<p>{html.escape(subtitle)}</p>" if subtitle else "",
        ratio=f"{width} / {height}",
        width=max(width, 320),
        under=under,
        pictures=pictures,
        choices=f"<fieldset><legend>map</legend><div>{choices}</div></fieldset>" if len(views) > 1 else "",
        sliders=sliders,
        details=details,
        settings=_table(settings.items()),
        values=values,
        style=_STYLE,
        script=_SCRIPT,
    )


_STYLE = """
:root { color-scheme: light dark; --line: #8886; }
* { box-sizing: border-box; }
body { font: 16px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem; }
h1 { font-size: 1.4rem; margin: .2rem 0; overflow-wrap: anywhere; } h2 { font-size: 1.05rem; margin: 1.2rem 0
.4rem; } .frame { overflow: auto; max-width: 100%; border: 1px solid var(--line); touch-action: pan-x pan-y; }
.stack { position: relative; width: 100%; }
.stack img { position: absolute; inset: 0; width: 100%; height: 100%; image-rendering: pixelated; }
.stack .photo { image-rendering: auto; }
.stack:focus-visible { outline: 3px solid Highlight; }
fieldset { border: 1px solid var(--line); margin: .8rem 0; min-width: 0; }
fieldset div { display: flex; flex-wrap: wrap; gap: .2rem 1rem; }
.sliders { display: flex; flex-wrap: wrap; gap: .2rem 1.5rem; margin: .6rem 0; }
label { display: inline-flex; align-items: center; gap: .35rem; min-height: 1.9rem; overflow-wrap: anywhere; }
output { display: block; min-height: 1.5rem; font-variant-numeric: tabular-nums; }
.bar { height: .9rem; margin-top: .8rem; border: 1px solid var(--line); }
.ticks { display: flex; justify-content: space-between; font-size: .8rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; }
td, th { text-align: left; padding: .15rem .7rem .15rem 0; border-bottom: 1px solid var(--line);
vertical-align: top; } summary { cursor: pointer; margin: .8rem 0; }
"""

_SCRIPT = """
const values = JSON.parse(document.getElementById('values').textContent);
const stack = document.querySelector('.stack'), readout = document.querySelector('output');
const maps = [...document.querySelectorAll('.map')], details =
[...document.querySelectorAll('[data-details]')]; const opacity = document.getElementById('opacity'), zoom =
document.getElementById('zoom'); const tables = values.map(v => v && new
Int16Array(Uint8Array.from(atob(v.data), c => c.charCodeAt(0)).buffer)); let shown = 0, at = null;
function draw() {
  maps.forEach((m, i) => { m.hidden = i !== shown; m.style.opacity = opacity ? opacity.value / 100 : 1; });
  details.forEach((d, i) => { d.hidden = i !== shown; });
  if (zoom) stack.style.width = zoom.value + '%';
  say();
}
function say() {
  const v = values[shown];
  if (!v || !at) { readout.textContent = ''; return; }
  const row = Math.min(v.height - 1, Math.floor(at[1] * v.height)), column = Math.min(v.width - 1,
  Math.floor(at[0] * v.width)); const value = tables[shown][row * v.width + column] / 32767 * v.top;
  readout.textContent = `row ${row}, column ${column}: ${value.toPrecision(3)}`;
}
stack.addEventListener('pointermove', e => {
  const box = stack.getBoundingClientRect();
  at = [(e.clientX - box.left) / box.width, (e.clientY - box.top) / box.height].map(n => Math.max(0, n));
  say();
});
stack.addEventListener('keydown', e => {
  const v = values[shown], step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0,
  1] }[e.key]; if (!v || !step) return;
  const [x, y] = at || [0.5, 0.5];
  const clip = n => Math.min(Math.max(n, 0), 0.999999);
  at = [clip(x + step[0] / v.width), clip(y + step[1] / v.height)];
  e.preventDefault(); say();
});
document.querySelectorAll('input[name=map]').forEach(r => r.addEventListener('change', () => { shown =
+r.value; draw(); })); for (const slider of [opacity, zoom]) if (slider) slider.addEventListener('input',
draw); draw();
"""

_TEMPLATE = """<!doctype html>
<html lang=en>
<meta charset=utf-8>
<meta name=viewport content="width=device-width, initial-scale=1">
<meta http-equiv=Content-Security-Policy content="default-src 'none'; img-src data:; style-src
'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"> <title>{title}</title>
<style>{style}</style>
<h1>{title}</h1>
{subtitle}
<div class=frame style="width: {width}px; min-width: min(100%, 28rem)">
<div class=stack tabindex=0 style="aspect-ratio: {ratio}" aria-label="map; arrow keys read its
values">{under}{pictures}</div> </div>
<output aria-live=polite></output>
<div class=sliders>{sliders}</div>
{choices}
{details}
<details><summary>Settings</summary>{settings}</details>
<script id=values type=application/json>{values}</script>
<script>{script}</script>
</html>
"""
