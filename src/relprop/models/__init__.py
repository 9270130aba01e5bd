"""Networks, photographs and class names to try LRP on: what the command line and the demo stand on.

Bottom up: `imagenet` (class names), `photos` (reading and preparing photographs), `efficientnet_lite` (the
built-in network), `weights` (state dicts from files), `sources` (networks by name). Nothing here is needed to
explain a model of your own. Nothing is downloaded: what is not on this machine is an error that says what to
install.
"""

from relprop.models.efficientnet_lite import EfficientNetLite0
from relprop.models.imagenet import class_names, find_class
from relprop.models.photos import Preprocess, read_photo
from relprop.models.sources import LoadedModel, load_model

__all__ = [
    "EfficientNetLite0",
    "LoadedModel",
    "Preprocess",
    "class_names",
    "find_class",
    "load_model",
    "read_photo",
]
