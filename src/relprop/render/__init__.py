"""Pictures of relevance.

Bottom up: `palette` (colour maps), `scale` (channels reduced, limits, clipping), `heatmap` (arrays of
colours, with numpy alone), `files` (arrays to files), `figure` (titles and scales, with matplotlib), `signal`,
`row`, `table` and `volume` (other than images), `explanation` (which of them suits an explanation), `flow`,
`matrix` and `graph` (by layer, by head and expert, between layers), `notebook` (rich displays), `page` (HTML).

Everywhere the scale is the same for both signs, zero has its own colour, and what was clipped is said. A map
in which every value is zero is hatched, never blank. matplotlib and pillow are imported when they are needed.
"""

from relprop.render.explanation import picture, save, show
from relprop.render.figure import grid, pixels
from relprop.render.files import png_bytes, save_array, save_film
from relprop.render.flow import audit_bars, flow
from relprop.render.graph import graph, strongest_paths
from relprop.render.heatmap import heatmap, overlay
from relprop.render.matrix import by_expert, by_head, experts, head_relevance, heads, matrix
from relprop.render.page import to_html
from relprop.render.palette import NAMES, Palette, palette
from relprop.render.row import bars, waterfall
from relprop.render.scale import Map, Scale, make_map
from relprop.render.signal import signal, strip
from relprop.render.table import beeswarm, heat_table
from relprop.render.volume import frames, montage, slices, tile

__all__ = [
    "NAMES",
    "Map",
    "Palette",
    "Scale",
    "audit_bars",
    "bars",
    "beeswarm",
    "by_expert",
    "by_head",
    "experts",
    "flow",
    "frames",
    "graph",
    "grid",
    "head_relevance",
    "heads",
    "heat_table",
    "heatmap",
    "make_map",
    "matrix",
    "montage",
    "overlay",
    "palette",
    "picture",
    "pixels",
    "png_bytes",
    "save",
    "save_array",
    "save_film",
    "show",
    "signal",
    "slices",
    "strip",
    "strongest_paths",
    "tile",
    "to_html",
    "waterfall",
]
