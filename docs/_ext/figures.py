"""What the gallery shows of an example: the figures it made, and every run from one seed."""

import random
import weakref

import numpy as np
import torch
from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst

_shown = weakref.WeakSet()


def figures_of_an_example(block, block_vars, gallery_conf):
    """The figures that a block has bound to names, in order; relprop makes them without pyplot."""
    paths = []
    for name, value in block_vars["example_globals"].items():
        if isinstance(value, Figure) and not name.startswith("_") and value not in _shown:
            _shown.add(value)
            path = next(block_vars["image_path_iterator"])
            value.savefig(path, metadata={"Software": None})
            paths.append(path)
    return figure_rst(paths, gallery_conf["src_dir"])


def seeded(gallery_conf, fname):
    """Before each example: what it draws at random is the same in every build."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (the state that scikit-learn draws from by default)
    torch.manual_seed(0)
    torch.set_num_threads(1)
