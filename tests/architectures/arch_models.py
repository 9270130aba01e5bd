"""Networks of many kinds, small and written as users write them, one factory a name.

Each takes its functions from `Plain` or `Detached` (see `detached.py`); ``make(name)`` gives the plain
network, its twin of the same weights, the arguments of a call, and what of the output is explained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.architectures.detached import Detached, Plain
from tests.reference.recipe import fill


@dataclass
class Net:
    """``model`` and its twin ``oracle``; ``select`` picks what is explained from the raw output."""

    model: nn.Module
    oracle: nn.Module
    args: tuple[Any, ...]
    select: Callable[[Any], Tensor]


def whole(output: Tensor) -> Tensor:
    return output


def draw(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


class Network(nn.Module):
    """Functions come from ``self.ops``; everything else is ordinary."""

    def __init__(self, ops: type[Plain] = Plain) -> None:
        super().__init__()
        self.ops = ops


# --- convolutional ---


class Block3d(nn.Sequential):
    def __init__(self, given: int, taken: int) -> None:
        super().__init__(
            nn.Conv3d(given, taken, 3, padding=1), nn.BatchNorm3d(taken), nn.ReLU(inplace=True),
            nn.Conv3d(taken, taken, 3, padding=1), nn.BatchNorm3d(taken), nn.ReLU(inplace=True),
        )  # fmt: skip


class UNet3d(Network):
    """Down by max pooling, up by a transposed convolution and by trilinear interpolation, with crops."""

    def __init__(self, ops: type[Plain] = Plain) -> None:
        super().__init__(ops)
        self.down1, self.down2, self.bottom = Block3d(1, 4), Block3d(4, 6), Block3d(6, 8)
        self.up2 = nn.ConvTranspose3d(8, 6, 2, stride=2)
        self.mix2, self.mix1 = Block3d(12, 6), Block3d(10, 4)
        self.head = nn.Conv3d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool3d(a, 2))
        c = self.bottom(F.max_pool3d(b, 2))
        up = self.up2(c)
        crop = b[:, :, : up.shape[2], : up.shape[3], : up.shape[4]]
        d = self.mix2(torch.cat((crop, up), 1))
        wide = F.interpolate(d, size=a.shape[2:], mode="trilinear", align_corners=False)
        return self.head(self.mix1(torch.cat((a, wide), 1)))


def lesion(output: Tensor) -> Tensor:
    """The predicted class 1 inside a box, as a mask would select it."""
    return output[:, 1, 2:5, 1:6, 2:6]


class ConvBN(Network):
    def __init__(self, given: int, taken: int, kernel: int = 1, stride: int = 1, ops: type[Plain] = Plain) -> None:
        super().__init__(ops)
        self.conv = nn.Conv2d(given, taken, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(taken)

    def forward(self, x: Tensor) -> Tensor:
        return self.ops.silu(self.bn(self.conv(x)))


class C2f(Network):
    """Split, a chain of bottlenecks whose every state is kept, concatenation."""

    def __init__(self, given: int, taken: int, count: int, ops: type[Plain]) -> None:
        super().__init__(ops)
        self.half = taken // 2
        self.first = ConvBN(given, taken, ops=ops)
        self.chain = nn.ModuleList(
            nn.Sequential(ConvBN(self.half, self.half, 3, ops=ops), ConvBN(self.half, self.half, 3, ops=ops))
            for _ in range(count)
        )
        self.last = ConvBN((2 + count) * self.half, taken, ops=ops)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.first(x).chunk(2, 1))
        for block in self.chain:
            parts.append(parts[-1] + block(parts[-1]))
        return self.last(torch.cat(parts, 1))


class SPPF(Network):
    def __init__(self, given: int, taken: int, ops: type[Plain]) -> None:
        super().__init__(ops)
        self.first = ConvBN(given, given // 2, ops=ops)
        self.last = ConvBN(given * 2, taken, ops=ops)
        self.pool = nn.MaxPool2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.first(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.last(torch.cat(parts, 1))


class Detector(Network):
    """Two scales; boxes as expected values over distance bins, turned into corners around grid points."""

    bins, classes = 4, 3

    def __init__(self, ops: type[Plain] = Plain) -> None:
        super().__init__(ops)
        self.stem = ConvBN(3, 8, 3, 2, ops)
        self.body = C2f(8, 8, 2, ops)
        self.down = ConvBN(8, 12, 3, 2, ops)
        self.pyramid = SPPF(12, 12, ops)
        self.join = C2f(20, 8, 1, ops)
        self.boxes = nn.ModuleList(nn.Conv2d(c, 4 * self.bins, 1) for c in (8, 12))
        self.scores = nn.ModuleList(nn.Conv2d(c, self.classes, 1) for c in (8, 12))
        self.register_buffer("steps", torch.arange(self.bins).view(1, 1, -1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.body(self.stem(x))
        coarse = self.pyramid(self.down(fine))
        fine = self.join(torch.cat((F.interpolate(coarse, scale_factor=2.0, mode="nearest"), fine), 1))
        found = []
        for level, box, score in zip((fine, coarse), self.boxes, self.scores, strict=True):
            stride = x.shape[-1] / level.shape[-1]
            rows, columns = torch.meshgrid(*(torch.arange(n) + 0.5 for n in level.shape[2:]), indexing="ij")
            points = torch.stack((columns, rows)).flatten(1).to(x)  # [2, A]
            weights = box(level).flatten(2).unflatten(1, (4, self.bins)).softmax(2)
            distance = (weights * self.steps.to(x)).sum(2)  # [N, 4, A]
            near, far = distance.chunk(2, 1)
            corners = torch.cat((points - near, points + far), 1) * stride
            found.append(torch.cat((corners, score(level).flatten(2)), 1))
        return torch.cat(found, 2)


def one_box(output: Tensor) -> Tensor:
    """All four corners and one class of one candidate."""
    return output[:, :5, 7]


class SqueezeExcite(Network):
    """Depthwise blocks with squeeze-excite gates, a sigmoid and a hard sigmoid, and a residual in place."""

    def __init__(self, ops: type[Plain] = Plain) -> None:
        super().__init__(ops)
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.squeeze, self.excite = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
        self.squeeze2, self.excite2 = nn.Linear(8, 4), nn.Linear(4, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.ops.silu(self.stem(x))
        y = self.ops.silu(self.depth(x))
        gate = self.ops.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        y = self.ops.mul(y, gate)
        gate = self.ops.hardsigmoid(self.excite2(F.relu(self.squeeze2(y.mean((2, 3))))))
        y = self.ops.mul(y, gate[:, :, None, None])
        y += x
        return self.head(y.mean((-2, -1)))


class Sampling(Network):
    """Grid sampling, interpolation in every mode, pixel shuffles, rolls, unfold and fold, patches."""

    def __init__(self, ops: type[Plain] = Plain) -> None:
        super().__init__(ops)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.mix = nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect")
        self.head = nn.Linear(4 * 9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))  # [N, 8, 8, 8]
        angle = torch.tensor([[[0.9, -0.3, 0.1], [0.3, 0.9, -0.1]]], dtype=x.dtype).expand(len(x), 2, 3)
        grid = F.affine_grid(angle, list(x.shape), align_corners=False)
        x = x + F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
        x = F.pixel_shuffle(x, 2)  # [N, 2, 16, 16]
        x = torch.roll(x, (3, -2), (2, 3))
        x = F.interpolate(x, size=(11, 13), mode="bilinear", align_corners=True)
        x = F.interpolate(x, scale_factor=0.7, mode="bicubic", align_corners=False)
        x = F.interpolate(x, size=(8, 8), mode="area")
        x = F.interpolate(x, size=(12, 12), mode="nearest-exact")
        columns = F.unfold(x, 4, stride=4)  # [N, 32, 9]
        x = x + F.fold(columns.flip(-1), (12, 12), 4, stride=4)
        x = F.relu(self.mix(x))
        patches = x.unfold(2, 4, 4).unfold(3, 4, 4)  # [N, 4, 3, 3, 4, 4]
        x = patches.mean((-1, -2)).flatten(1)
        return self.head(F.pixel_unshuffle(x.view(-1, 1, 6, 6), 2).flatten(1))


# --- pairs ---


class Siamese(Network):
    """One encoder, two inputs, a distance or a similarity of the two codes."""

    def __init__(self, ops: type[Plain] = Plain, measure: str = "norm") -> None:
        super().__init__(ops)
        self.measure = measure
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 6))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = self.encoder(a), self.encoder(b)
        if self.measure == "norm":
            return (a - b).norm(dim=-1)
        if self.measure == "pairwise":
            return F.pairwise_distance(a, b, eps=0.0)
        if self.measure == "manhattan":
            return (a - b).abs().sum(-1)
        if self.measure == "squared":
            return self.ops.square(a - b).sum(-1)
        if self.measure == "dot":
            return self.ops.mul(a, b).sum(-1)
        if self.measure == "normalised":
            codes = [t / self.ops.constant(t.norm(dim=-1, keepdim=True)) for t in (a, b)]
            return self.ops.mul(*codes).sum(-1)
        if self.ops is Plain:
            return F.cosine_similarity(a, b)
        scale = (a.norm(dim=-1) * b.norm(dim=-1)).detach()
        return self.ops.mul(a, b).sum(-1) / scale


# --- graphs ---

EDGES = torch.tensor([[0, 1, 2, 3, 4, 0, 2, 5, 5, 1], [1, 2, 0, 2, 3, 4, 5, 0, 1, 4]])  # source, target


class GCN(Network):
    """Message passing in every way that libraries spell it; all are sums over neighbours."""

    def __init__(self, ops: type[Plain] = Plain, spelling: str = "index_add") -> None:
        super().__init__(ops)
        self.spelling = spelling
        self.first, self.second = nn.Linear(3, 5), nn.Linear(5, 4)
        self.head = nn.Linear(4, 2)

    def gather(self, x: Tensor) -> Tensor:
        source, target = EDGES
        degree = torch.zeros(len(x), dtype=x.dtype).index_add(0, target, torch.ones(len(target), dtype=x.dtype))
        weight = 1 / (degree[source].clamp(min=1) * degree[target].clamp(min=1)).sqrt()
        index = target[:, None].expand(-1, x.shape[1])
        messages = x.index_select(0, source) * weight[:, None]
        if self.spelling == "index_add":
            return x + torch.zeros_like(x).index_add_(0, target, messages)
        if self.spelling == "scatter_add":
            return x + torch.zeros_like(x).scatter_add(0, index, messages)
        if self.spelling == "scatter_reduce":
            return torch.scatter_reduce(x, 0, index, messages, "sum", include_self=True)
        if self.spelling == "index_put":
            return x + torch.zeros_like(x).index_put((target,), messages, accumulate=True)
        if self.spelling == "gather":
            parts = [torch.gather(messages, 0, (target == node).nonzero().expand(-1, x.shape[1])) for node in range(6)]
            return x + torch.stack([part.sum(0) for part in parts])
        if self.spelling == "amax":
            return x + torch.zeros_like(x).scatter_reduce(0, index, messages, "amax", include_self=False)
        dense = torch.zeros(len(x), len(x), dtype=x.dtype).index_put((target, source), weight, accumulate=True)
        if self.spelling == "sparse":
            return x + torch.sparse.mm(dense.to_sparse(), x)
        if self.spelling == "csr":
            return x + dense.to_sparse_csr() @ x
        return x + dense @ x

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.gather(self.first(x)))
        x = F.relu(self.gather(self.second(x)))
        return self.head(x.max(0).values + x.mean(0))


class GAT(Network):
    """Attention over edges: the softmax of a node's incoming edges, dense with a mask or by scattering.

    Either way it is a softmax by the softmax's rule, which is torch's own gradient.
    """

    def __init__(self, ops: type[Plain] = Plain, spelling: str = "dense") -> None:
        super().__init__(ops)
        self.spelling = spelling
        self.value = nn.Linear(3, 8)
        self.ask, self.offer = nn.Linear(8, 2, bias=False), nn.Linear(8, 2, bias=False)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        source, target = EDGES
        h = self.value(x)  # [V, 8], two heads of four
        ask, offer = self.ask(h), self.offer(h)  # [V, 2]
        if self.spelling == "dense":
            scores = F.leaky_relu(ask[:, None] + offer[None], 0.2)  # [V target, V source, 2]
            mask = torch.full((len(x), len(x)), -torch.inf, dtype=x.dtype)
            mask[target, source] = 0.0
            weights = (scores + mask[:, :, None]).softmax(1)
            out = self.ops.matmul(weights.permute(2, 0, 1), h.view(-1, 2, 4).transpose(0, 1)).transpose(0, 1)
        else:
            scores = F.leaky_relu(ask[target] + offer[source], 0.2)  # [E, 2]
            e = scores.exp()
            total = torch.zeros(len(x), 2, dtype=x.dtype).index_add(0, target, e)
            weights = e / total[target]
            messages = self.ops.mul(weights[:, :, None], h.view(-1, 2, 4)[source])
            out = torch.zeros(len(x), 2, 4, dtype=x.dtype).index_add(0, target, messages)
        return self.head(F.elu(out.flatten(1)) if self.ops is Plain else self.ops.elu(out.flatten(1))).sum(0)


# --- spectral ---


class Spectral(Network):
    """Filters in the frequency domain, one and two dimensions, and back."""

    def __init__(self, ops: type[Plain] = Plain) -> None:
        super().__init__(ops)
        self.filter1 = nn.Parameter(torch.zeros(9, 2))
        self.filter2 = nn.Parameter(torch.zeros(4, 3, 2))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.fft.rfft(x) * torch.view_as_complex(self.filter1)
        x = x + F.relu(torch.fft.irfft(y, n=16))
        image = torch.fft.fft2(x.view(-1, 4, 4))[..., :3] * torch.view_as_complex(self.filter2)
        image = torch.fft.ifft2(torch.cat((image, torch.zeros_like(image[..., :1])), -1)).real
        return self.head(F.relu(image.flatten(1) + x))


class Spectrogram(Network):
    """Power of a short-time Fourier transform, mel-like bands, a convolution."""

    def __init__(self, ops: type[Plain] = Plain) -> None:
        super().__init__(ops)
        self.bands = nn.Linear(9, 4, bias=False)
        self.conv = nn.Conv1d(4, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        window = torch.hann_window(16, dtype=x.dtype)
        z = torch.stft(x, 16, 4, window=window, return_complex=True)  # [N, 9, T]
        power = self.ops.square(z.abs())
        return self.conv(F.relu(self.bands(power.mT).mT)).mean(-1)


# --- norms and gates ---


class Norms(Network):
    """Every norm, half of them written by hand."""

    def __init__(self, ops: type[Plain] = Plain) -> None:
        super().__init__(ops)
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 8)
        self.layer, self.group = nn.LayerNorm(8), nn.GroupNorm(2, 8)
        self.instance = nn.InstanceNorm1d(8, affine=True)
        self.scale, self.shift = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))
        self.head = nn.Linear(8, 3)

    def by_hand(self, x: Tensor) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        var = ((x - mean) ** 2).mean(-1, keepdim=True)
        return self.scale * (x - mean) / self.ops.constant(torch.sqrt(var + 1e-5)) + self.shift

    def forward(self, x: Tensor) -> Tensor:
        x = self.ops.layer_norm(self.first(x), self.layer)  # [N, T, 8]
        x = x + self.by_hand(self.second(x))
        x = x * self.ops.constant(torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)) * self.scale
        x = x.mT
        x = x + self.ops.group_norm(x, self.group)
        if self.ops is Plain:
            x = x + self.instance(x)
            x = F.normalize(x, dim=1) + F.local_response_norm(x, 3)
        else:
            std = (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt().detach()
            y = (x - x.mean(-1, keepdim=True)) / std
            x = x + y * self.instance.weight[:, None] + self.instance.bias[:, None]
            x = x / x.norm(dim=1, keepdim=True).detach() + x * (F.local_response_norm(x, 3) / x).detach()
        x = x.mT
        std, mean = torch.std_mean(x, -1, keepdim=True, unbiased=True)
        x = (x - mean) / self.ops.constant(std + 0.1)
        return self.head(x.mean(1))


class Gated(Network):
    """Gated linear units of every name."""

    def __init__(self, ops: type[Plain] = Plain) -> None:
        super().__init__(ops)
        self.first, self.second, self.third = nn.Linear(6, 16), nn.Linear(8, 16), nn.Linear(8, 16)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.ops is Plain:
            x = F.glu(x, -1)
        else:
            x = self.ops.mul(x[..., :8], self.ops.sigmoid(x[..., 8:]))
        gate, up = self.second(x).chunk(2, -1)
        x = self.ops.mul(self.ops.silu(gate), up)
        up, gate = self.third(x).split(8, -1)
        x = self.ops.mul(up, self.ops.gelu(gate))
        p = self.mix(x)  # a highway: g * y + (1 - g) * x
        gate = self.ops.sigmoid(p)
        x = self.ops.mul(gate, self.ops.tanh(x)) + self.ops.mul(self.ops.rest(p, gate), x)
        return self.head(x)


class Tabular(Network):
    """Two inputs, `where`, comparisons, a product of three and a regression output."""

    def __init__(self, ops: type[Plain] = Plain) -> None:
        super().__init__(ops)
        self.image = nn.Conv2d(2, 4, 3)
        self.table = nn.Linear(5, 4)
        self.head = nn.Linear(12, 1)

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        a = self.ops.gelu(self.image(image)).amax((2, 3))
        b = torch.einsum("ni,oi->no", table, self.table.weight) + self.table.bias
        b = torch.where(b > 0, b, 0.1 * b)
        c = torch.maximum(a, b) - torch.minimum(a, b.flip(1)) / 3
        joined = torch.cat((a, self.ops.mul(self.ops.softplus(b), a), self.ops.clamp(c)), 1)
        return self.head(joined).squeeze(-1)


def _net(kind: Callable[..., Network], args: tuple[Any, ...], select: Any = whole, **settings: Any) -> Net:
    model, oracle = (kind(ops=ops, **settings).double() for ops in (Plain, Detached))
    fill(model)
    with torch.no_grad():
        for i, module in enumerate(model.modules()):
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.copy_(0.2 * draw(module.num_features, seed=i))
                assert module.running_var is not None
                module.running_var.copy_(1 + 0.3 * draw(module.num_features, seed=i + 1).abs())
    oracle.load_state_dict(model.state_dict())
    return Net(model, oracle.eval(), args, select)


def _unet() -> Net:
    return _net(UNet3d, (draw(1, 1, 8, 9, 10),), lesion)


def _detector() -> Net:
    return _net(Detector, (draw(1, 3, 16, 16),), one_box)


FACTORIES: dict[str, Callable[[], Net]] = {
    "unet3d": _unet,
    "detector": _detector,
    "squeeze_excite": lambda: _net(SqueezeExcite, (draw(2, 3, 10, 10),)),
    "sampling": lambda: _net(Sampling, (draw(2, 3, 8, 8),)),
    "spectral": lambda: _net(Spectral, (draw(2, 16),)),
    "spectrogram": lambda: _net(Spectrogram, (draw(2, 40),)),
    "norms": lambda: _net(Norms, (draw(2, 5, 6),)),
    "gated": lambda: _net(Gated, (draw(2, 5, 6),)),
    "tabular": lambda: _net(Tabular, (draw(3, 2, 6, 6), draw(3, 5, seed=2))),
    "gat_dense": lambda: _net(GAT, (draw(6, 3),)),
    "gat_scatter": lambda: _net(GAT, (draw(6, 3),), spelling="scatter"),
}
for _measure in ("norm", "pairwise", "manhattan", "squared", "dot", "normalised", "cosine"):
    FACTORIES[f"siamese_{_measure}"] = lambda m=_measure: _net(
        Siamese, (draw(2, 1, 6, 6), draw(2, 1, 6, 6, seed=2)), measure=m
    )  # type: ignore[misc]
for _spelling in (
    "index_add", "scatter_add", "scatter_reduce", "index_put", "gather", "amax", "sparse", "csr", "dense",
):  # fmt: skip
    FACTORIES[f"gcn_{_spelling}"] = lambda s=_spelling: _net(GCN, (draw(6, 3),), spelling=s)  # type: ignore[misc]


def make(name: str) -> Net:
    return FACTORIES[name]()
