"""Pictures of relevance.

Bottom up: `palette` (colour maps), `scale` (channels reduced, limits, clipping), `heatmap` (arrays of
colours, with numpy alone), `files` (arrays to files), `figure` (titles and scales, with matplotlib), `signal`,
`row`, `table` and `volume` (other than images), `explanation` (which of them suits an explanation), `flow`,
`matrix` and `graph` (by layer, by head and expert, between layers), `notebook` (rich displays), `page` (HTML).

Everywhere the scale is the same for both signs, zero has its own colour, and what was clipped is said. A map
in which every value is zero is hatched, never blank. matplotlib and pillow are imported when they are needed.
"""

from relprop.render.explanation import picture as picture
from relprop.render.explanation import save as save
from relprop.render.explanation import show as show
from relprop.render.figure import grid as grid
from relprop.render.figure import pixels as pixels
from relprop.render.files import png_bytes as png_bytes
from relprop.render.files import save_array as save_array
from relprop.render.files import save_film as save_film
from relprop.render.flow import audit_bars as audit_bars
from relprop.render.flow import flow as flow
from relprop.render.graph import graph as graph
from relprop.render.graph import strongest_paths as strongest_paths
from relprop.render.heatmap import heatmap as heatmap
from relprop.render.heatmap import overlay as overlay
from relprop.render.matrix import by_expert as by_expert
from relprop.render.matrix import by_head as by_head
from relprop.render.matrix import experts as experts
from relprop.render.matrix import head_relevance as head_relevance
from relprop.render.matrix import heads as heads
from relprop.render.matrix import matrix as matrix
from relprop.render.page import to_html as to_html
from relprop.render.palette import NAMES as NAMES
from relprop.render.palette import Palette as Palette
from relprop.render.palette import palette as palette
from relprop.render.row import bars as bars
from relprop.render.row import waterfall as waterfall
from relprop.render.scale import Map as Map
from relprop.render.scale import Scale as Scale
from relprop.render.scale import make_map as make_map
from relprop.render.signal import signal as signal
from relprop.render.signal import strip as strip
from relprop.render.table import beeswarm as beeswarm
from relprop.render.table import heat_table as heat_table
from relprop.render.volume import frames as frames
from relprop.render.volume import montage as montage
from relprop.render.volume import slices as slices
from relprop.render.volume import tile as tile
