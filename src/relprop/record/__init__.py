"""Seeing a forward: the function mode, module paths, saved tensors, facts, and the walk over the graph."""

from relprop.record.books import Ledger as Ledger
from relprop.record.leaves import Leaf as Leaf
from relprop.record.recorder import Recorder as Recorder
