"""Evaluates Python expressions as data: constants, earlier names, and pure functions with small results."""

from __future__ import annotations

import ast
import math
import operator
import posixpath
import re
import string
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

LARGEST_INTEGER_BITS = 1024
LONGEST_TEXT = 10_000
LONGEST_LIST = 1_000
WIDEST_FIELD = 999
"""Largest width in a format such as `{:>20}` or `%5d`, and most digits for `round`."""
LONGEST_SHOWN = 60

Value = int | float | str | bool | list[Any] | dict[Any, Any] | None


class Unread(Exception):  # noqa: N818 - it is stored as the value of a name, and raised when that is used
    """An expression or statement that is not understood.

    Attributes:
        line: Its line.
        what: What it is, in words.
        of_machine: Whether it depends on the machine's devices, so that Quill's own choice can replace it.
    """

    def __init__(self, node: ast.AST, what: str, *, of_machine: bool = False) -> None:
        super().__init__(what)
        self.line: int = getattr(node, "lineno", 1)
        self.what = what
        self.of_machine = of_machine


@dataclass(frozen=True)
class Imported:
    """An imported name: its full path, such as `math.ceil`, and the line of the import."""

    path: str
    line: int


Names = Mapping[str, Value | Unread | Imported]

BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
}
UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Invert: operator.invert,
    ast.Not: operator.not_,
}
COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda item, items: item in items,
    ast.NotIn: lambda item, items: item not in items,
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{kind.__name__: kind for kind in (int, float, str, bool, len, min, max, round, abs, sum)},
    **{
        f"math.{function.__name__}": function
        for function in (math.ceil, math.floor, math.sqrt, math.log, math.log2, math.exp)
    },
    "os.path.join": posixpath.join,
    "time.time": time.time,
    "time.strftime": lambda form: time.strftime(form),
    "datetime.datetime.now().strftime": lambda form: time.strftime(form),
}
CONSTANTS: dict[str, Value] = {"math.pi": math.pi, "math.e": math.e}
OF_MACHINE = ("torch.cuda.", "torch.backends.", "torch.mps.", "torch.xpu.")
"""Prefixes of names that depend on the machine's devices."""

KINDS = {
    ast.Call: "a call",
    ast.Attribute: "an attribute",
    ast.Lambda: "a function",
    ast.Starred: "an unpacked list",
    ast.NamedExpr: "an assignment within an expression",
    ast.Set: "a set",
    ast.ListComp: "a comprehension",
    ast.DictComp: "a comprehension",
    ast.SetComp: "a comprehension",
    ast.GeneratorExp: "a comprehension",
    ast.Slice: "a part of a list",
}


def evaluate(node: ast.expr, names: Names) -> Value:
    """Return the value of an expression; no code is run, and no large result is computed.

    Args:
        node: The expression.
        names: The names that earlier lines assigned and imported.

    Raises:
        Unread: The expression, or a name in it, is not understood.
    """
    try:
        return _Evaluation(names).value(node)
    except RecursionError:
        raise Unread(node, "an expression nested too deeply") from None


class _Evaluation:
    """Computes one expression."""

    def __init__(self, names: Names) -> None:
        self._names = names

    def value(self, node: ast.expr) -> Value:
        try:
            value = self._value(node)
        except Unread:
            raise
        except (ArithmeticError, LookupError, TypeError, ValueError, MemoryError):
            raise Unread(node, f"{ast.unparse(node)[:LONGEST_SHOWN]}, which has no value") from None
        if isinstance(value, complex) or (isinstance(value, int) and value.bit_length() > LARGEST_INTEGER_BITS):
            raise Unread(node, "arithmetic whose result is no usable number")
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            raise Unread(node, "a text that is too long")
        if isinstance(value, list | dict) and next(islice(_contents(value), LONGEST_LIST, None), None) is not None:
            raise Unread(node, "a list that is too long")  # ten lines of [a, a, ...] would fill the memory
        return cast(Value, value)

    def _value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=int() | float() | str() | bool() | None as value):
                return value
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                return [self.value(element) for element in elements]
            case ast.Dict(keys=keys, values=values) if None not in keys:
                return {self.value(key): self.value(value) for key, value in zip(keys, values, strict=True) if key}
            case ast.Name(id=name):
                return self._named(node, name)
            case ast.UnaryOp(op=operation, operand=operand):
                return UNARY[type(operation)](self.value(operand))
            case ast.BinOp(left=left, op=operation, right=right) if type(operation) in BINARY:
                return self._combined(node, operation, self.value(left), self.value(right), right)
            case ast.BoolOp(op=operation, values=operands):
                return self._logical(operands, until=isinstance(operation, ast.Or))
            case ast.Compare(left=left, ops=operations, comparators=others):
                compared = [self.value(operand) for operand in (left, *others)]
                triples = zip(operations, compared, compared[1:], strict=False)
                return all(COMPARISONS[type(operation)](first, second) for operation, first, second in triples)
            case ast.IfExp(test=test, body=body, orelse=otherwise):
                return self._conditional(test, body, otherwise)
            case ast.Subscript(value=whole, slice=index) if not isinstance(index, ast.Slice):
                return self.value(whole)[self.value(index)]  # type: ignore[index]
            case ast.JoinedStr(values=parts):
                return "".join(self._formatted(part) for part in parts)
            case ast.Call(func=function, args=arguments, keywords=[]):
                return self._called(node, function, arguments)
            case ast.Attribute():
                return self._attribute(node)
        raise Unread(node, KINDS.get(type(node), f"a {type(node).__name__.lower()}"))

    def _named(self, node: ast.expr, name: str) -> Value:
        if name not in self._names:
            raise Unread(node, f"the name {name}, which no earlier line assigns")
        value = self._names[name]
        if isinstance(value, Unread):
            raise value
        if isinstance(value, Imported):
            raise Unread(node, f"{name}, which is imported")
        return value

    def _combined(self, node: ast.expr, operation: ast.operator, left: Any, right: Any, right_node: ast.expr) -> Any:
        """Return the result of an operator on two values; large results are refused before they are computed."""
        numbers = [abs(operand) if isinstance(operand, int) else 0 for operand in (left, right)]
        texts = [operand for operand in (left, right) if isinstance(operand, str | list)]
        match operation:
            case ast.Pow() if isinstance(left, int) and isinstance(right, int):
                if right * numbers[0].bit_length() > LARGEST_INTEGER_BITS and numbers[0] > 1:
                    raise Unread(node, "a power that is too large")
            case ast.LShift() if numbers[1] > LARGEST_INTEGER_BITS:
                raise Unread(node, "a number that is too large")
            case ast.Mult() if texts and len(texts[0]) * max(numbers) > LONGEST_TEXT:
                raise Unread(node, "a text or a list that is too long")
            case ast.Mod() if isinstance(left, str):
                self._check_format(node, left.replace("{", ""))
                right = tuple(right) if isinstance(right_node, ast.Tuple) else right
        return BINARY[type(operation)](left, right)

    def _logical(self, operands: list[ast.expr], *, until: bool) -> Value:
        """Return the value of `or` (until an operand is true) or of `and` (until one is false)."""
        unread: list[Unread] = []
        value: Value = None
        for operand in operands:
            try:
                value = self.value(operand)
            except Unread as error:
                unread.append(error)
                continue
            if bool(value) is until and not unread:
                return value
        if unread:
            raise min(unread, key=lambda error: error.of_machine)
        return value

    def _conditional(self, test: ast.expr, body: ast.expr, otherwise: ast.expr) -> Value:
        try:
            condition = self.value(test)
        except Unread as unread:
            if unread.of_machine:  # Quill's choice can replace it if both sides are values
                self.value(body), self.value(otherwise)
            raise
        return self.value(body if condition else otherwise)

    def _formatted(self, part: ast.expr) -> str:
        if not isinstance(part, ast.FormattedValue):
            return str(self.value(part))
        value = self.value(part.value)
        form = "" if part.format_spec is None else str(self.value(part.format_spec))
        self._check_format(part, form)
        conversions: dict[int, Callable[[object], str]] = {ord("r"): repr, ord("s"): str, ord("a"): ascii}
        if part.conversion in conversions:
            value = conversions[part.conversion](value)
        return format(value, form)

    def _called(self, node: ast.Call, function: ast.expr, arguments: list[ast.expr]) -> Any:
        if isinstance(function, ast.Attribute) and function.attr == "format":
            try:
                template = self.value(function.value)
            except Unread:
                template = None
            if isinstance(template, str):
                return self._filled(node, template, [self.value(argument) for argument in arguments])
        path = self._path(function)
        if path.startswith(OF_MACHINE):
            raise Unread(node, f"{path}(), which depends on the machine", of_machine=True)
        if path not in FUNCTIONS:
            raise Unread(node, f"a call of {ast.unparse(function)[:LONGEST_SHOWN]}")
        values = [self.value(argument) for argument in arguments]
        if path == "round" and any(isinstance(value, int) and abs(value) > WIDEST_FIELD for value in values[1:]):
            raise Unread(node, "a rounding to so many digits")
        if path.endswith("strftime"):
            self._check_format(node, str(values[0]))
        return FUNCTIONS[path](*values)

    def _filled(self, node: ast.Call, template: str, values: list[Value]) -> str:
        """Fill in the fields of a template if they are plain: no attributes or elements of values."""
        for _, field, form, _ in string.Formatter().parse(template):
            if field and not field.isdigit():
                raise Unread(node, "a template with fields that are not plain")
            self._check_format(node, form or "")
        return template.format(*values)

    def _check_format(self, node: ast.expr, form: str) -> None:
        """Check that a format gives no text longer than a setting can need."""
        widths = [width.lstrip("0") for width in re.findall(r"\d+", form)]
        if "*" in form or "{" in form or any(len(width) > len(str(WIDEST_FIELD)) for width in widths):
            raise Unread(node, "a text that is too long")

    def _attribute(self, node: ast.Attribute) -> Value:
        path = self._path(node)
        if path in CONSTANTS:
            return CONSTANTS[path]
        if f"{path}.".startswith(OF_MACHINE):
            raise Unread(node, f"{path}, which depends on the machine", of_machine=True)
        raise Unread(node, f"the attribute {path}" if path else "an attribute")

    def _path(self, node: ast.expr) -> str:
        """Return the full path of a dotted name, with imports resolved; empty if it is no such name."""
        match node:
            case ast.Name(id=name) if name not in self._names:
                return name
            case ast.Name(id=name):
                value = self._names[name]
                return value.path if isinstance(value, Imported) else ""
            case ast.Attribute(value=whole, attr=part):
                beginning = self._path(whole)
                return f"{beginning}.{part}" if beginning else ""
            case ast.Call(func=function, args=[], keywords=[]):
                beginning = self._path(function)
                return f"{beginning}()" if beginning else ""
        return ""


def _contents(value: object) -> Iterator[tuple[object]]:
    """Yield every value within a list or dict at any depth, also inner lists and dicts, in a tuple of its own."""
    inner = value if isinstance(value, list) else [*value, *value.values()] if isinstance(value, dict) else []
    for item in inner:
        yield (item,)
        if isinstance(item, list | dict):
            yield from _contents(item)
