r"""BiLRP: why two inputs are alike, told by pairs of their parts.

A similarity `s = <phi(x), phi(x')>` of embeddings is a product of both inputs: what makes it is no part of one, but a
part of the one met by a part of the other. With `R_i(phi_m)` the relevance of part `i` of `x` to embedding entry `m`,

    R_ij = sum_m R_i(phi_m) R_j(phi'_m)        J[m, i] = R_i(phi_m),   R = J^T J'

`sum_ij R_ij = s`, less what the two explanations lose to biases, stabilisers and further leaves.
[Eberle et al. 2020, "Building and interpreting deep similarity models", eq. 8]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from relprop.errors import InputError, RelpropError
from relprop.explain import LRP, check_lrp
from relprop.explain.arguments import refuse_misfit
from relprop.explain.inputs import names, rebuild
from relprop.explain.seed import main_output

Embed = Callable[[Any], Tensor]
Pool = int | Callable[[Tensor], Tensor] | None
_MANY = 64  # entries of an embedding from which on derivatives by parts may be the shorter way
_CELLS = 14  # an image is pooled to at most so many cells a side, where nothing is said


class Link(NamedTuple):
    """A part of the first input and a part of the second, as indices of their grids, and what they have in common."""

    first: tuple[int, ...]
    second: tuple[int, ...]
    relevance: float


@dataclass
class PairRelevance:
    """How much each pair of parts contributes to the similarity of two inputs.

    matrix      [I, J], parts of the first input by parts of the second
    similarity  what was explained
    grids       how the parts lie: (rows, columns) of cells for images, (tokens,) for texts
    error       [I, J], the standard error of every entry where the embedding was projected; else None
    labels      names of the parts, for texts
    """

    matrix: Tensor
    similarity: float
    grids: tuple[tuple[int, ...], tuple[int, ...]]
    error: Tensor | None = None
    labels: tuple[list[str], list[str]] | None = None

    @property
    def absorbed(self) -> float:
        """The similarity that is in no pair: biases, stabilisers, position embeddings (projected: and chance)."""
        return self.similarity - float(self.matrix.sum(dtype=torch.float64))

    @property
    def first(self) -> Tensor:
        """What each part of the first input has in common with the whole second one."""
        return self.matrix.sum(1).reshape(self.grids[0])

    @property
    def second(self) -> Tensor:
        """What each part of the second input has in common with the whole first one."""
        return self.matrix.sum(0).reshape(self.grids[1])

    def strongest(self, count: int = 10) -> list[Link]:
        """The pairs with most relevance of either sign, the strongest first."""
        if count < 1:
            raise InputError(f"count must be at least 1, got {count}")
        flat = self.matrix.flatten()
        order = flat.abs().topk(min(count, flat.numel())).indices.tolist()
        width = self.matrix.shape[1]
        return [
            Link(_place(k // width, self.grids[0]), _place(k % width, self.grids[1]), float(flat[k])) for k in order
        ]

    def picture(self, first: Any = None, second: Any = None, **options: Any) -> Any:
        """Draw the strongest links: between two photographs [H, W, 3] where they are given, or between two texts.

        options  of `relprop.render.links.photos` or `words`: count, title, ...
        """
        from relprop.render import links

        if self.labels is not None:
            return links.words(self.matrix, *self.labels, score=self.similarity, **options)
        if first is None or second is None:
            raise InputError("links of images are drawn on them: give both photographs, as they looked")
        return links.photos(self.matrix, self.grids, first, second, score=self.similarity, **options)

    def save(self, path: str | Path, first: Any = None, second: Any = None, **options: Any) -> Path:
        """Draw the strongest links into a file: .png, .svg, .pdf."""
        from relprop.render.figure import check_path, save_figure

        return save_figure(self.picture(first, second, **options), check_path(path))

    def __str__(self) -> str:
        share = f"{self.absorbed / self.similarity:.1%}" if self.similarity else "all"
        text = f"similarity {self.similarity:.5g}, of which {self.absorbed:.3g} ({share}) is in no pair"
        return text if self.error is None else text + f"; standard error of a pair up to {float(self.error.max()):.2g}"


def bilrp(
    lrp: LRP | tuple[LRP, LRP],
    first: Any,
    second: Any,
    *,
    embed: Embed | tuple[Embed, Embed] | None = None,
    similarity: Literal["dot", "cosine"] = "dot",
    pool: Pool | tuple[Pool, Pool] = None,
    project: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    method: Literal["auto", "entries", "parts"] = "auto",
    batch_size: int = 32,
    **options: Any,
) -> PairRelevance:
    """Explain why two inputs are alike.

    lrp         of the model that embeds both, or two of them (two towers: images and texts)
    first       an input of batch size 1: a tensor, a tuple of positional arguments, or a dict of keywords
    second      the other one, of any size
    embed       from the model's output to the embedding [N, D]; None: the output itself, [N, D] or flattened to it
    similarity  "dot", or "cosine": the dot product over both norms, which count as constants (they only scale)
    pool        what the parts are. None: the features of [N, F]; the tokens of [N, T, D], summed over D; patches of
                an image [N, C, H, W], at most 14 x 14. An int: patches of so many pixels a side. A callable from
                relevance [N, ...] to parts [N, ...]. A tuple: one for each input
    project     None: exact, see `method`. An int k < D: k passes on random orthogonal
                directions, an unbiased estimate, with the standard error of every entry in `error`. A tensor [k, D]:
                directions P of your own, the similarity P phi . P phi'
    generator   for the random directions
    method      of the exact matrix. "entries": a pass for each of the embedding's D entries, in batches. "parts": the
                relevance of each part is differentiated by the seed, to which it is linear, so that one pass and a
                derivative for each of the I parts give the same. "auto": "parts" where they are far fewer
    batch_size  passes at once: memory grows with it
    options     of `LRP.explain`: wrt (where the model has several inputs), unknown

    A random basis' k of D directions are a sample without replacement of D terms whose sum is exact, so the error
    is `D sqrt((1 - k/D) / k)` times the standard deviation of the sampled terms, and 0 for k = D.

    Raises:
        InputError: for inputs of more than one sample, embeddings of different sizes, or a zero vector's cosine.
    """
    for one in _both(lrp):
        check_lrp(one, "bilrp")
    if similarity not in ("dot", "cosine"):
        raise InputError(f'similarity must be "dot" or "cosine", got {similarity!r}')
    if method not in ("auto", "entries", "parts"):
        raise InputError(f'method must be "auto", "entries" or "parts", got {method!r}')
    if type(batch_size) is not int or batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size!r}")
    for one in _both(embed):
        if one is not None and not callable(one):
            raise InputError(f"embed must be a function from the model's output to the embedding, got {one!r}")
    towers = [
        _Tower(one, as_arguments(given), how or _flattened, parts, options)
        for one, given, how, parts in zip(_both(lrp), (first, second), _both(embed), _both(pool), strict=True)
    ]
    phi = [t.embedding() for t in towers]
    if phi[0].shape != phi[1].shape:
        raise InputError(f"the embeddings must be of one size, got {len(phi[0])} and {len(phi[1])} entries")
    directions = _directions(project, phi[0], generator)
    scale = 1.0 / _norms(*phi) if similarity == "cosine" else 1.0
    j = [t.relevance(directions, batch_size, method) for t in towers]
    matrix = j[0].flatten(1).T @ j[1].flatten(1) * scale
    return PairRelevance(
        matrix,
        _similarity(phi, project) * scale,
        (tuple(j[0].shape[1:]), tuple(j[1].shape[1:])),
        _error(j[0].flatten(1), j[1].flatten(1), len(phi[0]), scale) if type(project) is int else None,
    )


@dataclass
class _Tower:
    """One input, and the model that embeds it."""

    lrp: LRP
    given: tuple[tuple[Any, ...], dict[str, Any]]
    embed: Embed
    pool: Pool
    options: dict[str, Any]

    def embedding(self) -> Tensor:
        """[D]"""
        args, kwargs = self.given
        try:
            with torch.no_grad():
                found = self.embed(self.lrp.model(*args, **kwargs))
        except Exception as error:
            refuse_misfit(error, self.lrp.model, "bilrp", (), args, kwargs)
            raise
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != 1 or not found.is_floating_point():
            seen = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InputError(f"an input of one sample must be embedded as [1, D], got {seen}: see embed=")
        return found[0]

    def relevance(self, directions: Tensor | None, batch_size: int, method: str) -> Tensor:
        """The relevance of the parts to each direction (None: to each entry), [D, *parts]."""
        size = len(self.embedding()) if directions is None else len(directions)
        if directions is None and (method == "parts" or (method == "auto" and size >= _MANY)):
            made = self._by_parts(size, must=method == "parts")
            if made is not None:
                return made
        found = []
        for start in range(0, size, batch_size):
            rows = torch.arange(start, min(start + batch_size, size))
            args, kwargs = _repeated(self.given, len(rows))
            target = _Entries(self.embed, rows, directions)
            r = self.lrp.explain(*args, target=target, **kwargs, **self.options).relevance
            found.append(self._parts(r, len(rows)).detach())
        return torch.cat(found)

    def _by_parts(self, size: int, must: bool) -> Tensor | None:
        """As `relevance`, by derivatives. None where that takes longer, or what runs has no second derivative."""
        try:
            return self._derivatives(None if must else size // 2)
        except (RelpropError, RuntimeError):
            if must:
                raise
            return None

    def _derivatives(self, most: int | None) -> Tensor | None:
        """The relevance of the parts, differentiated by the seed. None where there are more of them than `most`."""
        phi = self.embedding()
        # any point would do; at this one the explained sum does not cancel, as that of a layer norm's outputs would
        seed = torch.where(phi < 0, -1.0, 1.0).to(phi.dtype)[None].requires_grad_()
        args, kwargs = self.given
        e = self.lrp.explain(
            *args, target=lambda out: (self.embed(out) * seed).sum(1), create_graph=True, **kwargs, **self.options
        )
        parts = self._parts(e.relevance, 1)[0]
        if not parts.requires_grad:
            raise InputError('method="parts" wants a pool that can be differentiated')
        if most is not None and parts.numel() > most:
            return None
        columns = [torch.autograd.grad(p, seed, retain_graph=True)[0][0] for p in parts.flatten()]
        return torch.stack(columns, 1).unflatten(1, parts.shape)

    def _parts(self, relevance: Any, count: int) -> Tensor:
        if not isinstance(relevance, Tensor):
            known = list(relevance) if isinstance(relevance, dict) else list(range(len(relevance)))
            raise InputError(f"several inputs are explained: name one with wrt=, of {', '.join(map(repr, known))}")
        parts = pooled(relevance, self.pool)
        if len(parts) != count:
            raise InputError(f"pool must keep the samples: {count} went in, shape {tuple(parts.shape)} came out")
        return parts


@dataclass(frozen=True, eq=False)
class _Entries:
    """A target: of each sample another entry of the embedding, or another direction in it."""

    embed: Embed
    rows: Tensor
    directions: Tensor | None

    def __call__(self, output: Any) -> Tensor:
        phi = self.embed(output)
        if self.directions is None:
            return phi[torch.arange(len(self.rows)), self.rows]
        return (phi * self.directions[self.rows]).sum(1)


def pooled(relevance: Tensor, pool: Pool) -> Tensor:
    """Relevance of parts: [N, F], tokens [N, T, D] -> [N, T], images [N, C, H, W] -> [N, rows, columns]."""
    if callable(pool):
        return pool(relevance)
    if pool is not None and (type(pool) is not int or pool < 1):
        raise InputError(f"pool must be the side of a patch in pixels, or a callable, got {pool!r}")
    if relevance.ndim == 4:
        side = pool or math.ceil(max(relevance.shape[-2:]) / _CELLS)
        summed = relevance.sum(1, keepdim=True)
        return F.avg_pool2d(summed, side, ceil_mode=True, divisor_override=1).squeeze(1)
    if pool is not None:
        raise InputError(f"patches are for images; relevance of shape {tuple(relevance.shape)} wants a callable pool")
    if relevance.ndim in (2, 3):
        return relevance.sum(-1) if relevance.ndim == 3 else relevance
    raise InputError(f"relevance has shape {tuple(relevance.shape)}: say what its parts are, with a callable pool")


def as_arguments(given: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of one sample."""
    args, kwargs = ((), dict(given)) if isinstance(given, Mapping) else (given, {}) if isinstance(given, tuple) \
        else ((given,), {})  # fmt: skip
    for name, value in names(args, kwargs):
        rebuild(value, name, _one_sample)
    return args, kwargs


def _one_sample(name: str, tensor: Tensor) -> Tensor:
    if tensor.ndim and len(tensor) != 1:
        raise InputError(f"input {name} must hold one sample, with its axis of samples; got {tuple(tensor.shape)}")
    return tensor


def _repeated(given: tuple[tuple[Any, ...], dict[str, Any]], count: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    def repeat(name: str, tensor: Tensor) -> Tensor:
        return tensor.expand(count, *tensor.shape[1:]).contiguous() if tensor.ndim else tensor

    args, kwargs = given
    return tuple(rebuild(a, "", repeat) for a in args), {k: rebuild(v, k, repeat) for k, v in kwargs.items()}


def _flattened(output: Any) -> Tensor:
    tensor = main_output(output)
    return tensor if tensor.ndim == 2 else tensor.flatten(1)


def _both(value: Any) -> tuple[Any, Any]:
    if isinstance(value, tuple):
        if len(value) != 2:
            raise InputError(f"of a tuple there must be two, one for each input; got {len(value)}")
        return value
    return value, value


def _norms(first: Tensor, second: Tensor) -> float:
    norms = float(first.norm()) * float(second.norm())
    if norms == 0:
        raise InputError("an embedding is zero: it has no direction, and no cosine")
    return norms


def _similarity(phi: list[Tensor], project: int | Tensor | None) -> float:
    if isinstance(project, Tensor):
        phi = [project.to(p) @ p for p in phi]
    return float(phi[0].double() @ phi[1].double())


def _directions(project: int | Tensor | None, phi: Tensor, generator: torch.Generator | None) -> Tensor | None:
    size = len(phi)
    if project is None:
        return None
    if isinstance(project, Tensor):
        if project.ndim != 2 or project.shape[1] != size:
            raise InputError(f"project must hold directions [k, {size}], got shape {tuple(project.shape)}")
        return project.detach().to(phi)
    if type(project) is not int or not 2 <= project <= size:
        raise InputError(f"project must be 2 to {size} (the embedding's size), or a tensor of directions: {project!r}")
    # Haar-distributed: of a Gaussian matrix, with the signs of R's diagonal taken out
    q, r = torch.linalg.qr(torch.randn(size, project, generator=generator, dtype=torch.float64))
    return (q * r.diagonal().sign() * math.sqrt(size / project)).T.to(phi)


def _error(first: Tensor, second: Tensor, size: int, scale: float) -> Tensor:
    """Of a sum over all directions, from a sample of them. `first`, `second`: [k, parts], scaled by sqrt(D / k)."""
    count = len(first)
    # each term is (k / D) of what stands in the sum; its variance from sums of squares, term by term
    mean = first.T @ second / count
    square = first.square().T @ second.square() / count
    variance = (square - mean.square()).clamp(min=0) * count / (count - 1)
    return ((1 - count / size) * count * variance).sqrt() * scale


def _place(index: int, grid: tuple[int, ...]) -> tuple[int, ...]:
    found: list[int] = []
    for size in reversed(grid):
        found.append(index % size)
        index //= size
    return tuple(reversed(found))
