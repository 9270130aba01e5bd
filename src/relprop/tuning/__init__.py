"""Finding rules for a model by how faithful its explanations are.

`tune` is what one uses, as `relprop.tune(...)`. Bottom up: `scoring` (a number for explanations), `space` (what may be
chosen), `study` (Optuna's study, on file), `result` (table and plot), `run`.
"""

from relprop.tuning.result import Tuned as Tuned
from relprop.tuning.run import tune as tune
from relprop.tuning.space import Groups as Groups
from relprop.tuning.space import Presets as Presets
from relprop.tuning.space import Space as Space
