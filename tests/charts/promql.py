"""Evaluates queries as Prometheus does, for the part of the language that the chart's alerts and dashboard use."""

from __future__ import annotations

import operator
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import promql_parser as promql

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

NAME = "__name__"

ARITHMETIC: Mapping[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": lambda left, right: left / right if right else float("nan") if not left else float("inf"),
}
COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
}
AGGREGATIONS: Mapping[str, Callable[[Sequence[float]], float]] = {"sum": sum, "max": max, "count": len}


class Series(NamedTuple):
    labels: Mapping[str, str]
    """The labels, the metric's name included as __name__."""
    value: float


Vector = list[Series]


@dataclass(frozen=True)
class Moment:
    """What a Prometheus knows at one time, and what it knew some seconds ago."""

    now: Vector
    time: float
    """The Unix time of `now`."""
    before: Vector
    elapsed: float
    """Seconds between `before` and `now`."""

    def evaluate(self, query: str) -> Vector | float:
        """Return the result of `query`. Raises NotImplementedError for what no query of the chart uses."""
        return self._evaluate(promql.parse(query))

    def _evaluate(self, node: promql.Expr) -> Vector | float:
        match node:
            case promql.NumberLiteral():
                return node.val
            case promql.ParenExpr():
                return self._evaluate(node.expr)
            case promql.VectorSelector():
                return selected(self.now, node)
            case promql.AggregateExpr():
                return _aggregate(node, _vector(self._evaluate(node.expr)))
            case promql.BinaryExpr():
                return _combine(node, self._evaluate(node.lhs), self._evaluate(node.rhs))
            case promql.Call():
                return self._call(node)
        raise NotImplementedError(str(node))

    def _call(self, node: promql.Call) -> Vector | float:
        match node.func.name, node.args:
            case "time", []:
                return self.time
            case "vector", [promql.NumberLiteral() as number]:
                return [Series({}, number.val)]
            case (("rate" | "deriv"), [promql.MatrixSelector() as matrix]):
                before = {_key(each.labels): each.value for each in selected(self.before, matrix.vector_selector)}
                return [
                    Series(_without_name(each.labels), (each.value - before[_key(each.labels)]) / self.elapsed)
                    for each in selected(self.now, matrix.vector_selector)
                    if _key(each.labels) in before
                ]
        raise NotImplementedError(node.func.name)


def selectors(query: str) -> list[promql.VectorSelector]:
    """Return every selector of metrics in `query`. Raises ValueError when the query cannot be parsed."""
    return [node for node in nodes(query) if isinstance(node, promql.VectorSelector)]


def nodes(query: str) -> list[promql.Expr]:
    """Return every node of the parsed query."""
    found: list[promql.Expr] = []

    def visit(node: promql.Expr) -> None:
        found.append(node)
        if isinstance(node, promql.MatrixSelector) and node.vector_selector not in found:
            found.append(node.vector_selector)

    promql.walk(promql.parse(query), visit)
    return found


def grouping_labels(query: str) -> set[str]:
    """Return the labels that the query groups by or matches on."""
    found: set[str] = set()
    for node in nodes(query):
        if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            found.update(node.modifier.labels)
        if isinstance(node, promql.BinaryExpr) and node.modifier is not None and node.modifier.matching is not None:
            found.update(node.modifier.matching.labels)
    return found


def selected(vector: Vector, selector: promql.VectorSelector) -> Vector:
    return [each for each in vector if _is_selected(each.labels, selector)]


def _is_selected(labels: Mapping[str, str], selector: promql.VectorSelector) -> bool:
    if selector.name is not None and labels[NAME] != selector.name:
        return False
    for matcher in selector.matchers.matchers:
        value = labels.get(matcher.name, "")
        if matcher.op == promql.MatchOp.Equal:
            is_match = value == matcher.value
        elif matcher.op == promql.MatchOp.NotEqual:
            is_match = value != matcher.value
        elif matcher.op == promql.MatchOp.Re:
            is_match = re.fullmatch(matcher.value, value) is not None
        else:
            raise NotImplementedError(str(matcher))
        if not is_match:
            return False
    return True


def _aggregate(node: promql.AggregateExpr, vector: Vector) -> Vector:
    kind = str(node.op)
    by = node.modifier.labels if node.modifier is not None else []
    if kind in {"topk", "bottomk"} and node.param is not None:
        return sorted(vector, key=lambda each: each.value, reverse=kind == "topk")[: int(node.param.val)]
    groups: dict[frozenset[tuple[str, str]], list[float]] = defaultdict(list)
    for each in vector:
        groups[_key({name: value for name, value in each.labels.items() if name in by})].append(each.value)
    return [Series(dict(labels), AGGREGATIONS[kind](values)) for labels, values in groups.items()]


def _combine(node: promql.BinaryExpr, left: Vector | float, right: Vector | float) -> Vector | float:
    kind = str(node.op)
    matching = node.modifier.matching if node.modifier is not None else None
    on = None if matching is None else matching.labels
    if kind in {"unless", "or"}:
        return _combine_sets(kind, _vector(left), _vector(right), on)
    if isinstance(left, float) and isinstance(right, float):
        return ARITHMETIC[kind](left, right)
    pairs = list(_pairs(left, right, on))
    if kind in COMPARISONS:
        return [Series(labels, each) for labels, each, other in pairs if COMPARISONS[kind](each, other)]
    return [Series(_without_name(labels), ARITHMETIC[kind](each, other)) for labels, each, other in pairs]


def _combine_sets(kind: str, left: Vector, right: Vector, on: Collection[str] | None) -> Vector:
    if kind == "or":
        known = {_match_key(each.labels, on) for each in left}
        return left + [each for each in right if _match_key(each.labels, on) not in known]
    excluded = {_match_key(each.labels, on) for each in right}
    return [each for each in left if _match_key(each.labels, on) not in excluded]


def _pairs(
    left: Vector | float, right: Vector | float, on: Collection[str] | None
) -> Iterator[tuple[Mapping[str, str], float, float]]:
    """Yield the labels and both values of each pair. Raises ValueError if a series has several partners."""
    if isinstance(left, float):
        yield from ((labels, left, value) for labels, value in _vector(right))
        return
    if isinstance(right, float):
        yield from ((labels, value, right) for labels, value in left)
        return
    partners: dict[frozenset[tuple[str, str]], float] = {}
    for labels, value in right:
        key = _match_key(labels, on)
        if key in partners:
            raise ValueError(f"many-to-many matching: {dict(labels)}")
        partners[key] = value
    for labels, value in left:
        if (key := _match_key(labels, on)) in partners:
            yield labels, value, partners[key]


def _match_key(labels: Mapping[str, str], on: Collection[str] | None) -> frozenset[tuple[str, str]]:
    return _key({name: value for name, value in _without_name(labels).items() if on is None or name in on})


def _key(labels: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset(labels.items())


def _without_name(labels: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in labels.items() if name != NAME}


def _vector(result: Vector | float) -> Vector:
    if isinstance(result, float):
        raise TypeError(f"a vector is needed, and {result} is a number")
    return result
