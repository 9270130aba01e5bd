"""`LRP(model, rules)` and `analyze(input, lrp, output_selection)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from relprop.adapters.julia.composite import Composite, assign
from relprop.adapters.julia.layers import layers
from relprop.adapters.julia.rules import ZeroRule, is_compatible, rows_of
from relprop.adapters.modules import pattern
from relprop.composite import Composite as Rows
from relprop.errors import RelpropError, RuleError
from relprop.explain import LRP as Engine
from relprop.explain.check import Coverage
from relprop.selectors import Name


class ByLayer(Rows):
    """Rules that were given layer by layer; a layer without anything to explain takes none."""


class LRP:
    """An analyzer: a model with a rule for each of its layers.

    model        any module; layers are the modules that hold no other
    rules        a `Composite`, or rules: a flat list with one for each layer, or lists in lists as the modules nest.
                 None: `ZeroRule()` everywhere
    normalize_output_relevance  True: relevance one at the output; False: the output's value
    skip_checks  run even where an operation has no rule; its own gradient is then taken
    verbose      print the summary of a check that failed
    """

    def __init__(
        self,
        model: nn.Module,
        rules: Composite | Sequence[Any] | None = None,
        *,
        normalize_output_relevance: bool = True,
        skip_checks: bool = False,
        verbose: bool = True,
    ) -> None:
        self.model = model
        self.normalize_output_relevance, self.skip_checks, self.verbose = (
            normalize_output_relevance,
            skip_checks,
            verbose,
        )
        self.layers = assign(model, Composite(ZeroRule()) if rules is None else rules)
        if not skip_checks:
            for index, path, module, rule in self.layers:
                if not is_compatible(rule, module) and isinstance(rules, (list, tuple)):
                    raise RuleError(f"{rule} is not compatible with layer {index} ({path}), a {type(module).__name__}")
        rows = [row for _, path, module, rule in self.layers for row in rows_of(_under(path), module, rule)]
        self.engine = Engine(model, ByLayer(rows, name="rules by layer"))

    def __call__(self, input: Any, output_selection: Any = None, *, layerwise_relevances: bool = False) -> Analysis:
        """As `analyze` has it."""
        return _analyze(input, self, output_selection, layerwise_relevances)

    def __repr__(self) -> str:
        shown = [(f"{path} {type(module).__name__}", str(rule)) for _, path, module, rule in self.layers]
        width = max(len(text) for text, _ in shown)
        return "LRP(\n" + "".join(f"  {text:<{width}} => {rule},\n" for text, rule in shown) + ")"


def _under(path: str) -> Name:
    """A layer, and whatever runs in it."""
    return Name(pattern(path), pattern(path) + ".*") if path else Name("*")


@dataclass(frozen=True)
class Analysis:
    """What `analyze` gives: relevance, input, output, and which outputs were explained.

    extras  {"layerwise_relevances": ...} where asked for: relevance at the output of every layer, by path
    """

    val: Any
    input: Any
    output: Any
    output_selection: Any
    analyzer: str = "LRP"
    heatmap: str = "attribution"
    extras: dict[str, Any] | None = None

    def __repr__(self) -> str:
        shape = tuple(getattr(self.val, "shape", ()))
        return f"Analysis({self.analyzer}: {self.heatmap} of shape {shape}, of output {self.output_selection})"


def analyze(
    input: Any,
    analyzer: Callable[..., Analysis],
    output_selection: Any = None,
    *,
    layerwise_relevances: bool = False,
    add_batch_dim: bool = False,
) -> Analysis:
    """Explain one output neuron of every sample.

    input             a tensor, samples first
    analyzer          an `LRP` or a `CRP`
    output_selection  None: the strongest; an index, or a tuple of indices; or relevance at the whole output
    layerwise_relevances  of an `LRP`: relevance at the output of every layer too
    add_batch_dim     for one sample without a batch dimension
    """
    options = {"layerwise_relevances": True} if layerwise_relevances else {}
    return analyzer(input[None] if add_batch_dim else input, output_selection, **options)


def _analyze(input: Any, lrp: LRP, output_selection: Any, layerwise_relevances: bool) -> Analysis:
    try:
        found = lrp.engine.explain(
            input,
            target=output_selection,
            seed="one" if lrp.normalize_output_relevance else "value",
            unknown="gradient" if lrp.skip_checks else "error",
            layers=["*"] if layerwise_relevances else (),
        )
    except RelpropError:
        if lrp.verbose and not lrp.skip_checks:
            print(_summary(lrp.model, lrp.engine.check(input)))
        raise
    extras = None
    if layerwise_relevances:
        paths = [path for _, path, _, _ in lrp.layers]
        extras = {"layerwise_relevances": {path: found.layers[path] for path in paths if path in found.layers}}
    return Analysis(found.relevance, input, found.output, found.target, extras=extras)


def check_lrp_compat(model: nn.Module, *args: Any, verbose: bool = True, **kwargs: Any) -> bool:
    """Whether every operation between input and output has a rule; if not, print what lacks one.

    args  what the model takes: which operations there are is only seen when it runs
    """
    coverage = Engine(model, ByLayer([], name="check")).check(*args, **kwargs)
    if verbose and not coverage.complete:
        print(_summary(model, coverage))
    return coverage.complete


def _summary(model: nn.Module, coverage: Coverage) -> str:
    """Every layer with what the check says of it."""
    lacking: dict[str, list[str]] = {}
    for unknown in coverage.unknown:
        lacking.setdefault(unknown.path or "", []).append(unknown.node)
    shown = [(f"{path} {type(module).__name__}", lacking.pop(path, [])) for _, path, module in layers(model)]
    shown += [(path or type(model).__name__, nodes) for path, nodes in lacking.items()]
    width = max(len(text) for text, _ in shown)
    lines = [
        f"  {text:<{width}} => " + (f"no rule for {', '.join(dict.fromkeys(nodes))}" if nodes else "supported") + ","
        for text, nodes in shown
    ]
    return "LRP model check\n" + "\n".join(lines)
