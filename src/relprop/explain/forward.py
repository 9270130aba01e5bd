"""One recorded forward: run the model, choose what is explained, refuse what cannot be."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from relprop.composite import Composite
from relprop.errors import InputError, ModelStateError, NoPathError, SelectorError, nearest
from relprop.explain.inputs import check_finite, names, outside_inference, rebuild
from relprop.explain.seed import Seed, explicit, make_seed
from relprop.numerics import autocasts
from relprop.plan import Plan
from relprop.record import Captures, Recorder, Weights, place
from relprop.record.coverage import walk
from relprop.record.nodes import NODES
from relprop.record.places import module_names, parameter_names
from relprop.record.tape import Tape
from relprop.selectors import Name
from relprop.units import Units


@dataclass(frozen=True)
class Request:
    """What a user asks of one forward.

    targets   what to explain, in the order of the explanations
    seed      the relevance at the output; None: nothing is explained, the forward is planned
    layers    places whose relevance is wanted
    conditions  for every explanation of a target, the units that relevance has to pass, by place; {} is none
    exclude_parallel  whether relevance that goes around a condition's place is left out
    start     the place whose tensor is explained instead of the output
    stop      the places at which the propagation ends
    wrt       which inputs to return
    lenient   take the native gradient of operations without a rule
    by_site   keep the books of every site
    create_graph  whether the relevance is to be differentiated
    """

    targets: tuple[Any, ...] = ()
    seed: Any = None
    layers: tuple[str, ...] = ()
    conditions: tuple[Mapping[str, Units], ...] = ({},)
    exclude_parallel: bool = True
    start: str | None = None
    stop: tuple[str, ...] = ()
    wrt: Any = None
    lenient: bool = False
    by_site: bool = False
    create_graph: bool = False

    @property
    def explicit(self) -> bool:
        return any(explicit(t, self.seed) for t in self.targets)

    @property
    def selected(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for condition in self.conditions for name in condition))

    @property
    def places(self) -> tuple[str, ...]:
        """Where relevance is shown."""
        return tuple(dict.fromkeys((*self.layers, *self.selected, *self.stop)))

    def captures(self, model: nn.Module) -> Captures:
        """What the forward has to keep. Raises for places that the model does not have."""
        wanted = [place(model, text, "layers") for text in self.layers]
        weights = [p for p in wanted if p.kind == "parameter"]
        if weights and self.create_graph:
            raise InputError(f"layers: the relevance of {weights[0].text!r} cannot be differentiated: ask for weights "
                             "without create_graph")  # fmt: skip
        selected = [place(model, text, "conditions", parameters=False) for text in self.selected]
        begins = [place(model, text, "start_at", parameters=False) for text in (self.start,) if text is not None]
        ends = [place(model, text, "stop_at", parameters=False) for text in self.stop]
        inside = [p for p in wanted if p.kind != "parameter"]
        observed = Weights(model, weights) if weights else None
        return Captures([*inside, *selected, *begins], selected, ends, observed)


@dataclass
class Forward:
    """A recorded forward with its seeds."""

    recorder: Recorder
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any
    seeds: tuple[Seed, ...] = ()
    nodes: int = 0
    notes: tuple[str, ...] = field(default=())

    def plan(self) -> Plan:
        sites, decisions = self.recorder.sites.columns()
        return Plan(self.recorder.composite.name, sites, decisions, tuple(self.recorder.cuts), self.notes)


def run(
    model: nn.Module,
    recorder: Recorder,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    then: Callable[[Any], Any] = lambda output: None,
) -> tuple[Any, Any]:
    """The model's output under the recorder, and what `then` makes of it there."""
    with outside_inference(), torch.enable_grad(), recorder.boxes.hooks(), recorder.scope:
        given = {name: rebuild(value, name, recorder.leaves.add) for name, value in names(args, kwargs)}
        recorder.dtypes.update(autocasts().values())  # what runs in them may hide it
        with recorder:
            output = model(*(given[str(i)] for i in range(len(args))), **{k: given[k] for k in kwargs})
            return output, then(output)


def record(
    model: nn.Module,
    composite: Composite,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    request: Request,
    totals: Any = None,
    notes: tuple[str, ...] = (),
    store: Any = None,
    decided: Any = None,
    watch: bool = False,
) -> Forward:
    """Run the model once and prepare every target. Raises for what cannot be explained.

    watch  say of operations without a rule where they ran. Where one is met unwatched, the model runs once more
    """
    carry = "everywhere" if request.explicit else None
    many = len(request.targets) * len(request.conditions) > 1
    captures = request.captures(model)
    more: dict[str, Any] = {"graph": Tape} if request.create_graph else {"store": store, "many": many}
    more |= {"lenient": request.lenient, "watch": watch or request.lenient}
    recorder = Recorder(model, composite, carry=carry, captures=captures, totals=totals, decided=decided, **more)

    recorder.ledger.begin(request.by_site)

    def chosen(output: Any) -> list[Any]:
        if request.start is not None:
            output = start(recorder, request.start)
        return [t(output) if callable(t) and not isinstance(t, Tensor) else None for t in request.targets]

    output, selected = run(model, recorder, args, kwargs, chosen)
    sparse = tuple(f"input {name} is sparse: it is a constant" for name in recorder.leaves.sparse)
    forward = Forward(recorder, args, kwargs, output, notes=(*notes, *sparse))
    if request.seed is not None:
        with outside_inference(), torch.set_grad_enabled(request.create_graph or torch.is_grad_enabled()):
            explained = output if request.start is None else start(recorder, request.start)
            forward.seeds = tuple(
                make_seed(explained, target, request.seed, lambda t: _head(recorder, t), value, recorder.graph.values)
                for target, value in zip(request.targets, selected, strict=True)
            )
        if not _judge(forward):
            return record(model, composite, args, kwargs, request, totals, notes, store, decided, watch=True)
        forward.notes += tuple(dict.fromkeys(s.note for s in forward.seeds if s.note))
    check_rows(recorder)
    check_captures(model, recorder)
    return forward


def _judge(forward: Forward) -> bool:
    """Every seed must depend on the input, through operations that have rules. Returns whether that could be told: of
    those without a rule it must be known where they ran."""
    for seed in forward.seeds:
        if not forward.recorder.graph.depends(seed.tensor):
            check_finite(forward.args, forward.kwargs)
            raise NoPathError(_no_path(forward.recorder))
    if isinstance(forward.recorder.graph, Tape):
        return True  # its graph is the model's own; the rules' was judged before
    found, forward.nodes = walk(seed.tensor for seed in forward.seeds)
    if not forward.recorder.scope.followed and any(not unknown.function for unknown in found):
        return False
    forward.recorder.judge(found)
    return True


def check_differentiable(forward: Forward) -> None:
    """Raise for what a relevance that is to be differentiated cannot pass."""
    if forward.recorder.reentrant:
        raise ModelStateError("create_graph=True cannot pass activation checkpoints with use_reentrant=True")
    stack: list[Any] = [seed.tensor.grad_fn for seed in forward.seeds]
    seen: set[Any] = set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if NODES.known(node):
            raise ModelStateError(
                f"create_graph=True cannot pass {node.name()}: the function that is registered for it works on the "
                "graph's node, which has no derivative. Explain without create_graph"
            )
        stack.extend(n for n, _ in node.next_functions)


def _head(recorder: Recorder, tensor: Tensor) -> Tensor | None:
    """The logits, if the tensor is a softmax or sigmoid of them."""
    if recorder.head is None:
        return None
    made, logits = recorder.head
    return logits if made() is tensor else None


def _no_path(recorder: Recorder) -> str:
    start = "nothing of the input reaches the explained output: "
    if recorder.cuts:
        where, without = _listed(recorder.cuts), recorder.cuts.underived
        if not without:
            return start + f"the gradient is cut at {where}. Explain a model (or a target) without it."
        name = next(name for _, name in without)
        others = [cut for cut in recorder.cuts if cut not in without]
        further = f" The gradient is also cut at {_listed(others)}." if others else ""
        return start + (
            f"torch has no derivative for {_listed(without)}.{further} Compute it by functions that have one, or give "
            f"it a rule: relprop.op({name!r})(parser); what a parser is: help(relprop.op)."
        )
    if not recorder.leaves and recorder.leaves.sparse:
        return start + "the inputs are sparse, and so constants. Give what is to be explained as a dense tensor."
    if not recorder.leaves:
        return start + (
            "the inputs hold integers alone and no embedding was called on them. "
            "Give floating inputs, or embed the integers inside the model."
        )
    return start + (
        "it is computed from constants alone. Check that the model uses its input and that the target is not an "
        "integer or boolean result."
    )


def _listed(cuts: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{path or '(model)'}.{name}" for path, name in cuts)


def check_rows(recorder: Recorder) -> None:
    """Every row of a user's own composite must have matched a site."""
    composite = recorder.composite
    if type(composite) is not Composite or not composite.selective or not recorder.sites:
        return
    for i, (selector, rule) in enumerate(composite.rows):
        if any(selector.matches(s) for s, _ in recorder.sites):
            continue
        parts = [path.split(".") for s, _ in recorder.sites for path in s.paths]
        paths = list(dict.fromkeys(".".join(p[:i]) for p in parts for i in range(1, len(p) + 1)))
        kinds = ", ".join(dict.fromkeys(s.kind for s, _ in recorder.sites))
        asked = [p for s in selector.walk() if isinstance(s, Name) for p in s.patterns]
        near = "".join(dict.fromkeys(_meant(p, paths) for p in asked))
        raise SelectorError(
            f"row {i} of the composite, ({selector!r}, {rule}), matched none of the {len(recorder.sites)} sites "
            f"of this forward{near}. Kinds that ran: {kinds}. See LRP.plan for all sites."
        )


def _meant(pattern: str, paths: list[str]) -> str:
    """The end of a sentence: what a pattern of modules' names that matches none may have been meant to be."""
    if any(path.startswith(f"{pattern}.") for path in paths):
        return f"; no operation runs in {pattern!r} itself, for those in the modules below it: '{pattern}.*'"
    return nearest(pattern.rstrip(".*"), paths, cutoff=0.6)


def check_model(model: Any) -> nn.Module:
    """The module to run: a compiled one is run through the module it wraps."""
    # Asking torch for its compiler would import it, which takes seconds; where nobody did, nothing is compiled.
    compiled = getattr(sys.modules.get("torch._dynamo.eval_frame"), "OptimizedModule", None)
    if compiled is not None and isinstance(model, compiled):
        model = model._orig_mod
    if not isinstance(model, nn.Module):
        if isinstance(model, type):
            raise InputError(f"model must be a torch.nn.Module, got the class {model.__name__}: make one, as it is run")
        fitted = "; for an estimator of scikit-learn: relprop.tabular.Explainer" if hasattr(model, "predict") else ""
        fitted = ": give its .module()" if type(model).__name__ == "ExportedProgram" else fitted
        raise InputError(f"model must be a torch.nn.Module, got {type(model).__name__}{fitted}")
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelStateError(
            "the model is TorchScript: its calls cannot be seen. Explain the Python model it was made from."
        )
    if isinstance(model, nn.DataParallel):
        raise ModelStateError(
            "DataParallel runs the model in threads that cannot be seen: explain model.module instead."
        )
    return model


def start(recorder: Recorder, text: str) -> Tensor:
    """The one tensor at a place."""
    found = [part for name in recorder.captures.at(text) for run in recorder.captures.found[name] for part in run]
    if len(found) != 1:
        raise InputError(f"start_at {text!r} must name one tensor of the forward, and names {len(found)}")
    return found[0][0]


def check_captures(model: nn.Module, recorder: Recorder) -> None:
    """Raise for a place that no value passed."""
    captures = recorder.captures
    for p in captures.places:
        if not captures.names(p):
            labels = [s.label for s, _ in recorder.sites]
            if p.kind == "site":
                near = nearest(p.text, [*module_names(model), *parameter_names(model), *labels])
                raise InputError(
                    f"{p.text!r} is no module, no parameter, and no operation of this forward (see LRP.plan){near}"
                )
            raise InputError(f"nothing that depends on the input passed {p.text!r} in this forward")
    if captures.weights is not None:
        captures.weights.check()
