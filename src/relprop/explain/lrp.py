"""`LRP`: explain what a model did, as it is."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from relprop.composite import Composite, as_composite
from relprop.errors import AuditError, InputError, warn
from relprop.explain.arguments import refuse_misfit, warn_of_swallowed
from relprop.explain.audit import lost, overgrown
from relprop.explain.backward import finite, propagate, refuse_not_finite
from relprop.explain.check import Coverage, coverage, without_rule
from relprop.explain.choose import choose
from relprop.explain.explanation import Explanation
from relprop.explain.forward import Forward, Request, check_differentiable, check_model, record, run
from relprop.numerics import without_autocast
from relprop.plan import Plan
from relprop.progress import Progress, track
from relprop.record import Recorder
from relprop.record.tensors import tensors
from relprop.units import Units, as_units


class LRP:
    """Layer-wise relevance propagation through any PyTorch model, as it is.

    model      any `nn.Module` that runs forward; it is not changed in any way
    composite  a preset, a `Composite`, a rule (given to every linear map) or rows of (selector, rule).
               None: chosen by what runs in the model, and said in the plan

    Thread-safe: every call keeps its own state.
    """

    def __init__(self, model: nn.Module, composite: Any = None) -> None:
        self.model = check_model(model)
        self._composite = None if composite is None else as_composite(composite)
        self._chosen: tuple[Composite, str] | None = None
        self._totals: dict[Any, Any] = {}
        self._store: dict[Any, Any] | None = None
        self._decided: dict[Any, Any] = {}

    def __repr__(self) -> str:
        rules = "not chosen before the first call" if self.composite is None else self.composite.name
        return f"LRP({type(self.model).__name__}, {rules})"

    @property
    def composite(self) -> Composite | None:
        """The rules: those that were given, or those chosen at the first call. None before it."""
        return self._composite if self._composite is not None or self._chosen is None else self._chosen[0]

    def composite_for(self, *args: Any, **kwargs: Any) -> Composite:
        """The rules that a call with these inputs gets: those that were given, or those chosen by what runs."""
        return self._pick(args, kwargs)[0]

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        """Which rule each executed site gets, and why. Runs the forward once and propagates nothing."""
        with self._running("plan", (), args, kwargs):
            composite, notes = self._pick(args, kwargs)
            totals = self._count(composite, args, kwargs)
            forward = record(self.model, composite, args, kwargs, Request(), totals, notes, watch=True)
            return replace(forward.plan(), unknown=without_rule(forward))

    def check(self, *args: Any, target: Any = None, **kwargs: Any) -> Coverage:
        """What is covered, before any propagation: sites and their rules, native nodes, nodes without a rule, cuts."""
        with self._running("check", ("target",), args, kwargs):
            composite, notes = self._pick(args, kwargs)
            totals = self._count(composite, args, kwargs)
            return coverage(self.model, composite, args, kwargs, target, totals, notes)

    def explain(
        self,
        *args: Any,
        target: Any = None,
        targets: Sequence[Any] | None = None,
        seed: Literal["value", "one"] | Tensor = "value",
        layers: Sequence[str] | str = (),
        conditions: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        exclude_parallel: bool = True,
        start_at: str | None = None,
        stop_at: Sequence[str] | str = (),
        wrt: Sequence[str | int] | str | int | None = None,
        unknown: Literal["error", "gradient"] = "error",
        audit: Literal["total", "sites"] = "total",
        create_graph: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Explain the model's output on these inputs: an `Explanation`, or a list of them for `targets`.

        args, kwargs  what the model takes. Explained are all floating tensors among them, nested ones too, and the
                      embeddings of integer ones
        target        None: the arg max of a 2-d output (a 0-d or 1-d output is explained whole); an int; a tensor
                      or array of ints, one a sample; a tuple that indexes the output after its batch dimension; a
                      boolean mask of the output's shape; a callable from the raw output to the tensor to explain; or
                      a floating tensor of the output's shape: the relevance at the output itself
        targets       several of these: one forward, and one backward and one explanation each
        seed          "value": relevance at the output is the explained value, so relevance sums to it up to the
                      audit's entries. "one": it is one. A tensor: one relevance for each explained value
        layers        places inside the model whose relevance is wanted too, patterns allowed: a module's path for its
                      output, "path:in" for its input, a parameter's name for the relevance of a map's weights, an
                      operation's label from the plan for its result
        conditions    units that relevance has to pass, by place: {"layer4": 12} is what channel 12 of layer4 has to do
                      with the output; see `relprop.concepts` for other units. A list of such conditions: one forward,
                      and one backward and one explanation each (under every target)
        exclude_parallel  with conditions: relevance that goes around a condition's place is left out
        start_at      a place whose tensor is explained instead of the model's output; `target` then means it
        stop_at       places at which the propagation ends: they are explained in the inputs' stead
        wrt           names or positions of the inputs to return, if not all; changes no value
        unknown       "error": an operation without a rule is an error. "gradient": its own gradient is taken, and
                      the audit says so
        audit         "total": the books of the whole call, always kept. "sites": those of every site too
        create_graph  True: relevance and output can be differentiated, by parameters and by inputs that ask for it, so
                      that relevance can stand in a loss. The derivative is the true one of the relevance as a function,
                      with ratios and statistics; it takes a further forward, and keeps all activations

        Raises a `RelpropError` that says what was seen and what to do; the model is never changed.
        """
        if unknown not in ("error", "gradient"):
            raise InputError(f'unknown must be "error" or "gradient", got {unknown!r}')
        if not (isinstance(seed, Tensor) or (isinstance(seed, str) and seed in ("value", "one"))):
            raise InputError(f'seed must be "value", "one" or a tensor, got {seed!r}')
        if audit not in ("total", "sites"):
            raise InputError(f'audit must be "total" or "sites", got {audit!r}')
        if targets is not None and target is not None:
            raise InputError("give target= or targets=, not both")
        if targets is not None and not (isinstance(targets, Sized) and len(targets)):
            raise InputError(f"targets takes a list of at least one target, got {targets!r}; of one: target=")
        several = targets is not None or (conditions is not None and not isinstance(conditions, Mapping))
        request = Request(
            targets=(_target(target),) if targets is None else tuple(_target(t) for t in targets),
            seed=seed,
            layers=_texts(layers),
            conditions=_conditions(conditions),
            exclude_parallel=exclude_parallel,
            start=start_at,
            stop=_texts(stop_at),
            wrt=wrt,
            lenient=unknown == "gradient",
            by_site=audit == "sites",
            create_graph=create_graph,
        )
        count = len(request.targets) * len(request.conditions)
        each = self.explain_each(request, args, kwargs)
        found = list(track(each, count, "explaining") if count > 1 else each)
        return found if several else found[0]

    def recorded(self, request: Request, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Forward:
        """One forward, ready to be propagated through."""
        with self._running("explain", KEYWORDS, args, kwargs):
            composite, notes = self._pick(args, kwargs)
            totals = self._count(composite, args, kwargs)
            if request.create_graph:  # whatever cannot be explained is found by the graph of the rules
                plain = replace(request, create_graph=False)
                check_differentiable(record(self.model, composite, args, kwargs, plain, totals, notes))
            found = record(self.model, composite, args, kwargs, request, totals, notes, self._store, self._decided)
        warn_of_swallowed(self.model, KEYWORDS, kwargs)
        return found

    def explain_each(
        self, request: Request, args: tuple[Any, ...], kwargs: dict[str, Any], forward: Forward | None = None
    ) -> Iterator[Explanation]:
        """The explanations of a request's targets, one after the other as they are made.

        `explain(targets=...)` is the list of them; whoever reduces each at once, or shows how far it is, takes them
        from here.

        forward  of this request, where it has been recorded before
        """
        forward = self.recorded(request, args, kwargs) if forward is None else forward
        pairs = [(i, condition) for i in range(len(forward.seeds)) for condition in request.conditions]
        for k, (i, condition) in enumerate(pairs):
            with Progress(text="explain: backward"), without_autocast():
                result = propagate(forward, forward.seeds[i], request, condition, keep=k + 1 < len(pairs))
            sound = finite(result) and (result.audit.balanced or request.lenient)
            if not sound and not request.by_site:  # once more, to name the site
                again = replace(request, by_site=True)
                forward = self.recorded(again, args, kwargs)
                with without_autocast():
                    result = propagate(forward, forward.seeds[i], again, condition)
                sound = result.audit.balanced or request.lenient
            if not finite(result):
                refuse_not_finite(result, forward)
            if not sound:
                raise AuditError(
                    f"the books do not balance: {result.audit.unexplained_share:.1e} of the absolute relevance is "
                    f"unexplained.\n{lost(result.audit, forward.recorder.natives)}{result.audit}"
                )
            note = overgrown(result.audit, partial(_at_output, result))
            if note is not None:
                warn(note)
                result.audit = replace(result.audit, notes=(*result.audit.notes, note))
            yield result

    @contextmanager
    def frozen(self) -> Iterator[LRP]:
        """While this context lasts the weights do not change, so modified ones are made once for many inputs.

        with lrp.frozen():
            maps = [lrp.explain(x, target=t).relevance for x, t in data]

        The memory of the modified weights is held until the context ends. A weight that is changed inside all the
        same gives relevance of the old one: torch does not tell of every change.
        """
        before, self._store = self._store, {}
        try:
            yield self
        finally:
            self._store = before

    @contextmanager
    def _running(self, call: str, own: Collection[str], args: Any, kwargs: Any) -> Iterator[None]:
        """Around the forward of a call: how long it takes, and what was meant where the model does not take it."""
        try:
            with Progress(text=f"{call}: forward"):
                yield
        except Exception as error:
            refuse_misfit(error, self.model, call, own, args, kwargs)
            raise

    def _pick(self, args: Any, kwargs: Any) -> tuple[Composite, tuple[str, ...]]:
        """The user's composite, or one chosen by what runs in the model."""
        if self._composite is not None:
            return self._composite, ()
        if self._chosen is None:
            plan = record(self.model, Composite(), args, kwargs, Request()).plan()
            self._chosen = choose(plan)
        composite, why = self._chosen
        return composite, (why,)

    def _count(self, composite: Composite, args: Any, kwargs: Any) -> Any:
        """Selectors that count from the end need the number of sites: one forward to plan, remembered."""
        census = composite.census
        if not census.needs_totals:
            return None
        key = (repr(composite.rows), tuple((tuple(t.shape), t.dtype) for t in tensors((args, kwargs))))
        if key not in self._totals:
            recorder = Recorder(self.model, composite, totals=dict.fromkeys(census.counted, 0))
            run(self.model, recorder, args, kwargs)
            self._totals[key] = dict(recorder.sites.positions.counts)
        return self._totals[key]


def check_lrp(given: Any, asked: str, how: str = "LRP(model, composite)") -> LRP:
    """What a function was given as its `LRP`. Raises `InputError` for anything else, a bare model too: its rules are
    to be said.

    asked, how  what was called, and how one is made for it
    """
    if isinstance(given, LRP):
        return given
    raise InputError(f"{asked} takes an LRP, got {type(given).__name__}: {how}")


#: The keywords of `LRP.explain`; all others are the model's.
KEYWORDS = frozenset(p.name for p in inspect.signature(LRP.explain).parameters.values() if p.kind is p.KEYWORD_ONLY)


def _at_output(result: Explanation) -> float:
    """How much the outputs come to: the absolute relevance there, or what it would be if all outputs had the most of
    it. What is explained may be a difference of outputs that are nearly equal."""
    assert result.at_output is not None
    values, g = (t.detach() for t in result.at_output)
    size = sum(float(t.detach().abs().sum()) for t in tensors(result.output) if t.is_floating_point())
    return max(float((values * g).abs().sum()), size * float(g.abs().max())) if g.numel() else 0.0


def _target(given: Any) -> Any:
    """numpy's numbers and arrays count as Python's and torch's."""
    if isinstance(given, np.generic):
        return given.item()
    return torch.as_tensor(given) if isinstance(given, np.ndarray) else given


def _texts(given: Sequence[str] | str | None) -> tuple[str, ...]:
    """None, which users pass on, is no place at all; what is no text is refused where the place is looked up."""
    if given is None:
        return ()
    return (given,) if isinstance(given, (str, nn.Module)) else tuple(given)


def _conditions(given: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None) -> tuple[dict[str, Units], ...]:
    """Conditions as mappings from places to units."""
    if given is None:
        return ({},)
    each = [given] if isinstance(given, Mapping) else list(given)
    if not each or not all(isinstance(c, Mapping) for c in each):
        raise InputError(f"conditions must be a mapping from places to units, or a list of them, got {given!r}")
    return tuple({name: as_units(units) for name, units in c.items()} for c in each)
