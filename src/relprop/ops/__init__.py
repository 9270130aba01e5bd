"""What a torch call is: the table from torch functions to operations, one file a family."""

from relprop.ops import (  # noqa: F401  each enters its parsers into the table
    arithmetic,
    attention,
    cuts,
    distance,
    elementwise,
    linear,
    loss,
    norm,
    placed,
    pool,
    product,
    recurrent,
    regions,
    selection,
    softmax,
    structure,
)
from relprop.ops.base import Books as Books
from relprop.ops.base import Call as Call
from relprop.ops.base import Called as Called
from relprop.ops.base import Expansion as Expansion
from relprop.ops.base import Fact as Fact
from relprop.ops.base import Native as Native
from relprop.ops.base import Op as Op
from relprop.ops.maps import LinearMap as LinearMap
from relprop.ops.table import OPERATORS as OPERATORS
from relprop.ops.table import TABLE as TABLE
from relprop.ops.table import name_of as name_of
from relprop.ops.table import op as op
