"""How the site is built: `make docs`."""

import sys
import warnings
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

import torch  # noqa: E402
from figures import figures_of_an_example, seeded  # noqa: E402
from sphinx_gallery.sorting import ExplicitOrder, FileNameSortKey  # noqa: E402

torch.set_num_threads(1)  # the build runs a process on each core
warnings.filterwarnings("error", module=r"relprop(\.|$)")

project = "relprop"
author = "The relprop authors"
copyright = f"2026, {author}"
version = release = "0.1.0"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "mathml",  # these stand in _ext
    "docstrings",
    "rule_pictures",
]
exclude_patterns = ["_ext"]
exclude_patterns += [f"gallery/**/*.{suffix}" for suffix in ("ipynb", "py", "md5", "json")]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
nitpicky = True
default_role = "code"
smartquotes = False
suppress_warnings = ["config.cache"]  # the gallery's scraper and sort key are functions

# -- pages -------------------------------------------------------------------------------------------------------------

myst_enable_extensions = ["dollarmath", "colon_fence", "attrs_inline"]
myst_heading_anchors = 3
math_renderer = html_math_renderer = "mathml"

html_theme = "furo"
html_title = "relprop"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#9c2a36", "color-brand-content": "#9c2a36"},
    "dark_css_variables": {"color-brand-primary": "#f0939b", "color-brand-content": "#f0939b"},
}
pygments_style, pygments_dark_style = "friendly", "github-dark"
copybutton_exclude = ".linenos, .gp, .go"

# -- the API reference -------------------------------------------------------------------------------------------------

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
# What other packages define: their pages are not here, and the build asks nothing of a network.
nitpick_ignore_regex = [
    (r"py:class", r"relprop(\.\w+){2,}"),  # in annotations: what has no page of its own
    (r"py:class", r"Tensor|Epsilons|Bias"),  # names of annotations
    (r"py:.*", r"(collections|contextlib|pathlib|typing)\..*"),
    (r"py:.*", r"(torch|nn|numpy|np|npt|pandas|matplotlib|optuna|sklearn|transformers)\..*"),
]

# -- the gallery -------------------------------------------------------------------------------------------------------

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "ignore_pattern": r"__init__\.py",
    "subsection_order": ExplicitOrder(["../examples/data", "../examples/choosing", "*"]),
    "within_subsection_order": FileNameSortKey,
    "image_scrapers": (figures_of_an_example,),
    "reset_modules": (seeded,),
    "capture_repr": ("_repr_html_", "__str__"),
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "write_computation_times": False,
    "plot_gallery": True,
    "remove_config_comments": True,
}
