"""nanoGPT's config/*.py files, read as data: never imported, never executed."""

from __future__ import annotations

import ast
import operator
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from quillgpt.errors import ConfigError

LARGEST_FILE_BYTES = 1 << 20
LARGEST_INTEGER_BITS = 1024
LONGEST_TEXT = 10_000
LONGEST_LIST = 1_000

BINARY: dict[type[ast.operator], Callable[[int | float, int | float], int | float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
STATEMENTS = {
    ast.Import: "an import other than `import time`",
    ast.ImportFrom: "an import",
    ast.AugAssign: "an assignment that changes a value",
    ast.AnnAssign: "an assignment with a type",
    ast.FunctionDef: "a function",
    ast.ClassDef: "a class",
    ast.If: "an if statement",
    ast.For: "a loop",
    ast.While: "a loop",
    ast.With: "a with statement",
    ast.Try: "a try statement",
    ast.Expr: "an expression",
}
EXPRESSIONS = {
    ast.Call: "a call",
    ast.Attribute: "an attribute",
    ast.Subscript: "a subscript",
    ast.IfExp: "a conditional value",
    ast.JoinedStr: "a formatted string",
    ast.Lambda: "a function",
    ast.Compare: "a comparison",
    ast.BoolOp: "a logical operation",
}
ALLOWED = "only assignments of values, earlier names and arithmetic are read"

Value = int | float | str | bool | list["Value"] | None


def read_nanogpt(path: Path) -> dict[str, Value]:
    """Return what a nanoGPT config file assigns, by name.

    Assignments of literals, of earlier names, arithmetic on numbers, `+` on strings and `str(time.time())` are read.
    Names with a leading underscore can be used but are not returned, as in nanoGPT.

    Raises:
        ConfigError: The file cannot be read, or holds anything else; the message names the line.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    if len(source) > LARGEST_FILE_BYTES:
        raise ConfigError(f"{path} has {len(source):,} bytes, too many for a config file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            module = ast.parse(source)
    except SyntaxError as error:
        raise ConfigError(f"{path} line {error.lineno}: not valid Python: {error.msg}") from None
    except (ValueError, MemoryError, RecursionError):
        raise ConfigError(f"{path} is not a Python file that can be read") from None
    return _Reader(path).read(module)


def _all_values(values: list[Value]) -> Iterator[tuple[Value]]:
    """Yield each value of a list and of the lists in it, in a tuple; the lists themselves count too."""
    for value in values:
        yield (value,)
        if isinstance(value, list):
            yield from _all_values(value)


class _Reader:
    """Evaluates the few kinds of statement that a config file needs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[str, Value] = {}

    def read(self, module: ast.Module) -> dict[str, Value]:
        for statement in module.body:
            match statement:
                case ast.Expr(value=ast.Constant()):
                    pass
                case ast.Import(names=[ast.alias(name="time", asname=None)]):
                    pass
                case ast.Assign(targets=targets, value=expression):
                    value = self._evaluate_whole(expression)
                    for target in targets:
                        if not isinstance(target, ast.Name):
                            raise self._refusal(target, "an assignment to something other than a name")
                        self._values[target.id] = value
                case _:
                    raise self._refusal(statement, STATEMENTS.get(type(statement), type(statement).__name__.lower()))
        return {name: value for name, value in self._values.items() if not name.startswith("_")}

    def _evaluate_whole(self, expression: ast.expr) -> Value:
        try:
            return self._evaluate(expression)
        except RecursionError:
            raise self._refusal(expression, "an expression nested too deeply") from None

    def _evaluate(self, node: ast.expr) -> Value:
        match node:
            case ast.Constant(value=int() | float() | str() | bool() | None as value):
                if isinstance(value, int) and value.bit_length() > LARGEST_INTEGER_BITS:
                    raise self._refusal(node, "a number that is too large")
                return value
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                values = [self._evaluate(element) for element in elements]
                if next(islice(_all_values(values), LONGEST_LIST, None), None) is not None:
                    raise self._refusal(
                        node, "a list that is too long"
                    )  # ten lines of [a, a, ...] would fill the memory
                return values
            case ast.Name(id=name):
                if name not in self._values:
                    raise self._refusal(node, f"the name {name}, which no earlier line assigns")
                return self._values[name]
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
                number = self._number(operand)
                return -number if isinstance(sign, ast.USub) else +number
            case ast.BinOp(left=left, op=operation, right=right) if type(operation) in BINARY:
                return self._combine(node, self._evaluate(left), operation, self._evaluate(right))
            case ast.Call() if ast.unparse(node) == "str(time.time())":
                return str(time.time())
        raise self._refusal(node, EXPRESSIONS.get(type(node), type(node).__name__.lower()))

    def _number(self, node: ast.expr) -> int | float:
        value = self._evaluate(node)
        if not isinstance(value, int | float):
            raise self._refusal(node, f"{value!r}, where a number is needed")
        return value

    def _combine(self, node: ast.expr, left: Value, operation: ast.operator, right: Value) -> Value:
        if isinstance(left, str) and isinstance(right, str) and isinstance(operation, ast.Add):
            if len(left) + len(right) > LONGEST_TEXT:
                raise self._refusal(node, "a text that is too long")
            return left + right
        if not isinstance(left, int | float) or not isinstance(right, int | float):
            raise self._refusal(node, f"arithmetic on {left!r} and {right!r}")
        if isinstance(operation, ast.Pow) and isinstance(left, int) and isinstance(right, int):
            bits = right * left.bit_length() if abs(left) > 1 else 1
            if bits > LARGEST_INTEGER_BITS:  # found before it is computed: 9**9**9 would fill the memory
                raise self._refusal(node, "a power that is too large")
        try:
            result = BINARY[type(operation)](left, right)
        except (ZeroDivisionError, OverflowError) as error:
            raise self._refusal(node, f"arithmetic that fails ({error})") from None
        if isinstance(result, complex) or (isinstance(result, int) and result.bit_length() > LARGEST_INTEGER_BITS):
            raise self._refusal(node, "arithmetic whose result is no usable number")
        return result

    def _refusal(self, node: ast.AST, found: str) -> ConfigError:
        line = getattr(node, "lineno", 1)
        return ConfigError(f"{self._path} line {line}: found {found}; {ALLOWED}, nothing is executed")
