"""Safe expressions over a resolved config: constraints, ``when:`` and ``resources.per_arm``.

A small subset of Python expressions, parsed by `ast` and evaluated here: comparisons, ``and``/``or``/``not``,
``in``, ``+ - * / %``, dotted names of the config, constants, lists. No calls, no subscripts, no `eval`.

Two rules of its own: a component compares with a string by its name, so ``schedule == 'linear'`` and
``schedule.name == 'linear'`` mean the same; and a field that the chosen component does not have is *absent*: it
equals nothing, is in nothing, and every ordering with it is false.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable
from typing import Any

MAX_CHARACTERS = 500
MAX_NODES = 150

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}
_WORDS = {"true": True, "false": False, "null": None}


class ExpressionError(ValueError):
    """An expression cannot be read or evaluated; `column` counts from 1 inside the expression."""

    def __init__(self, message: str, column: int = 1) -> None:
        super().__init__(message)
        self.column = column


class _Absent:
    """The value of a field that the chosen component does not have."""

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


ABSENT = _Absent()


class Expression:
    """One parsed expression.

    Raises:
        ExpressionError: the text is not in the subset, or is too large.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > MAX_CHARACTERS:
            raise ExpressionError(f"an expression has at most {MAX_CHARACTERS} characters, this one {len(text)}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Python's own advice on odd literals is not for readers of a space
                tree = ast.parse(text.strip(), mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            column = getattr(error, "offset", None) or 1
            raise ExpressionError(f"{text!r} is not an expression ({getattr(error, 'msg', error)})", column) from None
        self._body = tree.body
        if sum(1 for _ in ast.walk(tree)) > MAX_NODES:
            raise ExpressionError(f"an expression has at most {MAX_NODES} parts; split it into several")
        _check(self._body)

    def names(self) -> list[tuple[tuple[str, ...], int]]:
        """Every dotted name and its column from 1, left to right: ``train.steps`` is (("train", "steps"), 1)."""
        inner: set[int] = set()
        found: list[tuple[tuple[str, ...], int]] = []
        for node in ast.walk(self._body):
            if isinstance(node, ast.Attribute | ast.Name) and id(node) not in inner:
                inner.update(id(child) for child in ast.walk(node))
                path = _path(node)
                if path[0] not in _WORDS or len(path) > 1:
                    found.append((path, node.col_offset + 1))
        return sorted(found, key=lambda name: name[1])

    def __call__(self, config: dict[str, Any]) -> bool:
        """The truth of the expression for a resolved config (plain JSON types)."""
        try:
            return bool(_truth(_value(self._body, config)))
        except (TypeError, ZeroDivisionError) as error:
            raise ExpressionError(f"{self.text!r} cannot be evaluated: {error}") from None


def _check(node: ast.expr) -> None:
    match node:
        case ast.BoolOp(values=parts) | ast.Tuple(elts=parts) | ast.List(elts=parts):
            for part in parts:
                _check(part)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            _check(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            _check(left)
            _check(right)
        case ast.Compare(left=left, ops=ops, comparators=rights):
            if bad := next((op for op in ops if isinstance(op, ast.Is | ast.IsNot)), None):
                kind = type(bad).__name__
                raise ExpressionError(f"{kind} is not allowed; compare with == or !=", node.col_offset + 1)
            for part in (left, *rights):
                _check(part)
        case ast.Attribute():
            if any(part.startswith("_") for part in _path(node)):
                raise ExpressionError("a name cannot begin with an underscore", node.col_offset + 1)
        case ast.Name(id=name):
            if name.startswith("_"):
                raise ExpressionError("a name cannot begin with an underscore", node.col_offset + 1)
        case ast.Constant(value=bool() | int() | float() | str() | None):
            pass
        case _:
            kind = "a call" if isinstance(node, ast.Call) else type(node).__name__
            raise ExpressionError(
                f"{kind} is not allowed in an expression; it may compare, combine with and/or/not, test `in` "
                "and compute with + - * / %",
                node.col_offset + 1,
            )


def _path(node: ast.expr) -> tuple[str, ...]:
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, ast.Attribute):
        return (*_path(node.value), node.attr)
    raise ExpressionError("a dot may only follow a name of the config", node.col_offset + 1)


def _value(node: ast.expr, config: dict[str, Any]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            return [_value(part, config) for part in parts]
        case ast.Name() | ast.Attribute():
            return _look_up(_path(node), config)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _truth(_value(operand, config))
        case ast.UnaryOp(operand=operand):
            return _arithmetic(operator.sub, 0, _value(operand, config))
        case ast.BoolOp(op=op, values=parts):
            results = (_truth(_value(part, config)) for part in parts)
            return all(results) if isinstance(op, ast.And) else any(results)
        case ast.BinOp(left=left, op=op, right=right):
            return _arithmetic(_ARITHMETIC[type(op)], _value(left, config), _value(right, config))
        case ast.Compare(left=left, ops=ops, comparators=rights):
            values = [_value(left, config), *(_value(right, config) for right in rights)]
            return all(_compare(op, a, b) for op, a, b in zip(ops, values[:-1], values[1:], strict=True))
    raise AssertionError(f"checked when it was read: {ast.dump(node)}")


def _look_up(path: tuple[str, ...], config: dict[str, Any]) -> Any:
    if len(path) == 1 and path[0] in _WORDS:
        return _WORDS[path[0]]
    value: Any = config
    for part in path:
        if not isinstance(value, dict) or part not in value:
            return ABSENT
        value = value[part]
    return value


def _truth(value: Any) -> bool:
    return False if value is ABSENT else bool(value)


def _arithmetic(op: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    if a is ABSENT or b is ABSENT:
        return ABSENT
    if not isinstance(a, int | float) or not isinstance(b, int | float):
        raise TypeError(f"arithmetic needs numbers, got {a!r} and {b!r}")
    return op(a, b)


def _compare(op: ast.cmpop, a: Any, b: Any) -> bool:
    if isinstance(op, ast.Eq | ast.NotEq):
        return _equal(a, b) == isinstance(op, ast.Eq)
    if isinstance(op, ast.In | ast.NotIn):
        if b is ABSENT:
            return isinstance(op, ast.NotIn)
        if not isinstance(b, list | tuple):
            raise TypeError(f"`in` needs a list on its right, got {b!r}")
        return any(_equal(a, item) for item in b) == isinstance(op, ast.In)
    if a is ABSENT or b is ABSENT or a is None or b is None:
        return False
    return _COMPARE[type(op)](a, b)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, str) and isinstance(b, dict):
        a, b = b, a
    if isinstance(a, dict) and isinstance(b, str) and "name" in a:
        return bool(a["name"] == b)
    if isinstance(a, bool) != isinstance(b, bool):
        return False
    return bool(a == b)
