"""Finding rules for a model by how faithful its explanations are.

`tune` is what one uses, as `relprop.tune(...)`. Bottom up: `scoring` (a number for explanations), `space` (what may be
chosen), `study` (Optuna's study, on file), `result` (table and plot), `run`.
"""

from relprop.tuning.result import Tuned
from relprop.tuning.run import tune
from relprop.tuning.space import Groups, Presets, Space

__all__ = [
    "Groups",
    "Presets",
    "Space",
    "Tuned",
    "tune",
]
