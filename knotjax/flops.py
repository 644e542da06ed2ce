"""Floating-point operations of a JAX function, counted from its program without running it.

XLA's `cost_analysis` counts the body of a loop once, however often it runs, so it misses most of a network whose layers
are scanned. Here the jaxpr is walked and every body is multiplied by its trips.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}  # primitives that run a jaxpr once, and where they hold it

_RULES = {
    "move": """bitcast_convert_type broadcast_in_dim concatenate convert_element_type copy copy_p device_put
        dynamic_slice dynamic_update_slice empty2 gather iota name optimization_barrier pad reduce_precision reshape rev
        scatter select_n sharding_constraint slice sort split squeeze stack stop_gradient top_k transpose
        unstack""",
    "elementwise": """abs add add_any ceil clamp cummax cummin cumprod cumsum div floor max min mul neg nextafter rem
        round sign square sub""",
    "transcendental": """acos acosh asin asinh atan atan2 atanh cbrt cos cosh digamma erf erf_inv erfc exp exp2 expm1
        lgamma log log1p logistic pow rsqrt sin sinh sqrt tan tanh""",
    "reduction": "reduce_max reduce_min reduce_prod reduce_sum",
    "scatter": "scatter-add scatter-max scatter-min scatter-mul",
}
_RULE = {name: rule for rule, names in _RULES.items() for name in names.split()}


@dataclasses.dataclass(frozen=True)
class Flops:
    """Operations by kind."""

    matmul: int = 0  # 2 for every multiply-add of a (batched) matrix product
    convolution: int = 0  # the same of convolutions; products with padding or with dilation's zeros are left out
    elementwise: int = 0  # 1 for every element of a floating-point sum, product, maximum, ... and every reduced element
    transcendental: int = 0  # 1 for every element of an exponential, root, sine, ...; XLA reports these on their own

    @property
    def total(self) -> int:
        return self.matmul + self.convolution + self.elementwise + self.transcendental


def count(function: Callable, *args, branches: str = "largest") -> Flops:
    """Count what one call of `function` computes. Nothing is computed or allocated for it.

    The program is counted as it is written: results that nobody uses count although a compiler may drop them. Integer
    and boolean arithmetic, comparisons, selections, and moving data are free; matrix products count in any dtype.

    Args:
      args: arrays or `jax.ShapeDtypeStruct`s, or trees of them.
      branches: of a `cond` or `switch`, count the "largest" branch (an upper bound of what runs), the "smallest" (a
        lower bound) or "all" (what runs where the branches are computed together and selected from).

    Raises:
      ValueError: the program holds a `while` whose trips are not known before it runs, a complex number, or a
        primitive for which there is no rule; the message names it.
    """
    return Flops(**tally(jax.make_jaxpr(function)(*args), _measure, branches))


def tally(program: ClosedJaxpr, measure: Callable[[JaxprEqn], Counter], branches: str = "largest") -> Counter:
    """Sum a measure over every equation that a program runs, each as often as it runs.

    Args:
      measure: called with each equation that runs no other jaxpr, returns its counts.
      branches: see `count`; the largest branch is the one with the largest sum of counts.

    Raises:
      ValueError: how often a loop or another primitive runs its body is not known, or `branches` is another word.
    """
    if branches not in ("largest", "smallest", "all"):
        raise ValueError(f"branches {branches!r}: must be 'largest', 'smallest' or 'all'")
    return _tally(program.jaxpr, measure, branches)


def _tally(jaxpr: Jaxpr, measure, branches: str) -> Counter:
    total = Counter()
    for eqn in jaxpr.eqns:
        name, params = eqn.primitive.name, eqn.params
        if name in _CALLS:
            total += _inner(params[_CALLS[name]], measure, branches)
        elif name == "scan":
            total += _times(_inner(params["jaxpr"], measure, branches), params["length"])
        elif name == "while":
            body, condition = (_inner(params[key], measure, branches) for key in ("body_jaxpr", "cond_jaxpr"))
            if body or condition:
                trips = _trips(eqn)
                total += _times(body, trips) + _times(condition, trips + 1)
        elif name == "cond":
            costs = [_inner(branch, measure, branches) for branch in params["branches"]]
            choose = {"largest": max, "smallest": min}.get(branches)
            total += choose(costs, key=Counter.total) if choose else sum(costs, Counter())
        elif name not in _RULE and _holds_programs(params):
            raise ValueError(f"{name}: how often it runs its inner program is not known; count that on its own")
        else:
            total += measure(eqn)
    return total


def _inner(jaxpr: ClosedJaxpr | Jaxpr, measure, branches: str) -> Counter:
    return _tally(getattr(jaxpr, "jaxpr", jaxpr), measure, branches)


def _times(counts: Counter, trips: int) -> Counter:
    return Counter({kind: value * trips for kind, value in counts.items()})


def _trips(eqn: JaxprEqn) -> int:
    """Trips of a `while` whose condition compares a counter, moved on by a constant, with a constant."""
    condition, body = eqn.params["cond_jaxpr"].jaxpr, eqn.params["body_jaxpr"].jaxpr
    first, second = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]  # constants stand before what is carried

    def start(atom) -> int | None:
        """What an operand of the condition is in the first trip."""
        if not isinstance(atom, Literal) and atom in condition.invars:
            place = condition.invars.index(atom)
            atom = eqn.invars[place if place < first else place + second]
        return int(atom.val) if isinstance(atom, Literal) and _is(atom.aval, jnp.integer) else None

    def growth(atom) -> int | None:
        """What each trip adds to an operand of the condition."""
        if isinstance(atom, Literal) or condition.invars.index(atom) < first:
            return 0
        place = condition.invars.index(atom) - first
        before, after = body.invars[second + place], body.outvars[place]
        if after is before:
            return 0
        for step in body.eqns:
            if step.primitive.name == "add" and step.outvars[0] is after:
                rest = [atom for atom in step.invars if atom is not before]
                return int(rest[0].val) if len(rest) == 1 and isinstance(rest[0], Literal) else None
        return None

    tests = condition.eqns
    if [test.primitive.name for test in tests] == ["lt"] and condition.outvars == tests[0].outvars:
        counter, limit = tests[0].invars
        begin, end = start(counter), start(limit)
        if begin is not None and end is not None and growth(limit) == 0 and (growth(counter) or 0) > 0:
            return max(-(-(end - begin) // growth(counter)), 0)
    raise ValueError("while: its trips are not known before it runs; use scan, or fori_loop with constant bounds")


def _measure(eqn: JaxprEqn) -> Counter:
    """Operations of one equation."""
    name, params = eqn.primitive.name, eqn.params
    rule = _RULE.get(name)
    inputs, outputs = [atom.aval for atom in eqn.invars], [atom.aval for atom in eqn.outvars]
    if rule == "move":
        return Counter()
    if any(_is(aval, jnp.complexfloating) for aval in (*inputs, *outputs)):
        raise ValueError(f"{name}: complex numbers have no rule; count the program without them")
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return Counter(matmul=2 * outputs[0].size * math.prod(inputs[0].shape[axis] for axis in contracted))
    if name == "conv_general_dilated":
        return Counter(convolution=2 * _convolution_products(params, *inputs, *outputs))
    if not any(_is(aval, jnp.floating) for aval in outputs):
        return Counter()
    if rule in ("elementwise", "transcendental"):
        return Counter({rule: outputs[0].size})
    if name == "integer_pow":
        return Counter(elementwise=outputs[0].size * _products(params["y"]))
    if rule == "reduction":
        return Counter(elementwise=inputs[0].size - outputs[0].size)
    if rule == "scatter":
        return Counter(elementwise=inputs[2].size)
    raise ValueError(f"{name}: this primitive has no rule; count the function without it")


def _is(aval: Any, kind) -> bool:
    return hasattr(aval, "dtype") and jnp.issubdtype(aval.dtype, kind)


def _holds_programs(params: dict) -> bool:
    flat = [part for value in params.values() for part in (value if isinstance(value, tuple | list) else (value,))]
    return any(isinstance(part, Jaxpr | ClosedJaxpr) for part in flat)


def _products(exponent: int) -> int:
    """Products (and one division, when negative) of raising to a whole number by repeated squaring."""
    size = abs(exponent)
    return max(size.bit_length() - 1 + size.bit_count() - 1, 0) + (exponent < 0)


def _convolution_products(params: dict, lhs, rhs, out) -> int:
    """Products of a convolution that meet an input element rather than padding or a hole of the dilated input."""
    numbers = params["dimension_numbers"]
    products = out.shape[numbers.out_spec[0]] * out.shape[numbers.out_spec[1]] * rhs.shape[numbers.rhs_spec[1]]
    axes = zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:])
    for d, (a, b, c) in enumerate(axes):
        hole, size = params["lhs_dilation"][d], lhs.shape[a]
        place = np.arange(out.shape[c])[:, None] * params["window_strides"][d] - params["padding"][d][0]
        place = place + np.arange(rhs.shape[b]) * params["rhs_dilation"][d]  # [out, kernel], on the dilated input
        products *= int(np.sum((place >= 0) & (place < (size - 1) * hole + 1) & (place % hole == 0)))
    return products
