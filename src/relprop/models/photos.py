"""Photographs: read from a file or taken from scikit-image, and prepared as a network wants them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from relprop.errors import InputError
from relprop.extras import require

Photo = npt.NDArray[np.uint8]

# Photographs that lie inside scikit-image's own wheel, so that none is downloaded.
BUILT_IN = ("chelsea", "coffee", "astronaut")


@dataclass(frozen=True)
class Preprocess:
    """How a photograph becomes a network's input: short side, centre crop, `(x / 255 - mean) / std`.

    Args:
        resize: the length of the short side before the crop.
        crop: the side of the square that is cut from the centre.
        mean, std: one number a channel, in the units of `x / 255`.
    """

    resize: int = 256
    crop: int = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if not 0 < self.crop <= self.resize:
            raise InputError(f"crop must lie between 1 and resize={self.resize}, got {self.crop}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise InputError(f"mean and std are three numbers each, std > 0; got {self.mean} and {self.std}")

    def view(self, photo: Photo) -> Photo:
        """What the network sees of a photograph, in its colours: [H, W, 3] -> [crop, crop, 3]."""
        height, width = photo.shape[:2]
        scale = self.resize / min(height, width)
        size = (max(self.resize, round(height * scale)), max(self.resize, round(width * scale)))
        x = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None].float()
        x = F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)
        top, left = (size[0] - self.crop) // 2, (size[1] - self.crop) // 2
        x = x[0, :, top : top + self.crop, left : left + self.crop].round().clamp(0, 255)
        return np.ascontiguousarray(x.to(torch.uint8).permute(1, 2, 0).numpy())

    def __call__(self, photo: Photo) -> Tensor:
        """The input of the network: [H, W, 3] -> [1, 3, crop, crop]."""
        x = torch.from_numpy(self.view(photo)).permute(2, 0, 1)[None].float() / 255
        return (x - self._channels(self.mean)) / self._channels(self.std)

    @property
    def low(self) -> Tensor:
        """What black becomes, [1, 3, 1, 1]: the lower bound that the z-box rule wants."""
        return -self._channels(self.mean) / self._channels(self.std)

    @property
    def high(self) -> Tensor:
        """What white becomes, [1, 3, 1, 1]: the upper bound that the z-box rule wants."""
        return (1 - self._channels(self.mean)) / self._channels(self.std)

    @staticmethod
    def _channels(values: tuple[float, float, float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1)


def read_photo(source: str | Path) -> Photo:
    """Read a photograph as colours, [H, W, 3] of uint8, upright as its camera noted it.

    Args:
        source: a file that pillow reads, or the name of a built-in photograph (`BUILT_IN`).

    Raises:
        InputError: where there is no such file or it is not a picture.
        MissingExtraError: where pillow, or for built-in ones scikit-image, is not installed.
    """
    if str(source) in BUILT_IN and not Path(source).exists():
        data = require("skimage.data", "demo", f"the photograph {source!r}")
        return np.ascontiguousarray(getattr(data, str(source))()[..., :3])
    image_module = require("PIL.Image", "cli", "reading photographs")
    image_ops = require("PIL.ImageOps", "cli", "reading photographs")
    path = Path(source)
    if not path.is_file():
        built_in = ", ".join(BUILT_IN)
        raise InputError(f"no photograph at {path}: no such file (built-in ones: {built_in})")
    try:
        with warnings.catch_warnings():
            # A file that would unpack to a giant is refused like any other unreadable one.
            warnings.simplefilter("error", image_module.DecompressionBombWarning)
            with image_module.open(path) as opened:
                upright = image_ops.exif_transpose(opened)
                flat = _on_white(image_module, upright)
                return np.array(flat, dtype=np.uint8)
    except (OSError, SyntaxError, ValueError, image_module.DecompressionBombWarning) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read as a picture: {reason}") from error


def _on_white(image_module: object, picture: object) -> object:
    """RGB; where the picture has transparency, as it looks on white."""
    has_alpha = "A" in picture.getbands() or "transparency" in picture.info  # type: ignore[attr-defined]
    if not has_alpha:
        return picture.convert("RGB")  # type: ignore[attr-defined]
    picture = picture.convert("RGBA")  # type: ignore[attr-defined]
    white = image_module.new("RGBA", picture.size, "white")  # type: ignore[attr-defined]
    return image_module.alpha_composite(white, picture).convert("RGB")  # type: ignore[attr-defined]
