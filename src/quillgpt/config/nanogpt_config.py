"""Reads nanoGPT's config/*.py files as data; they are never imported or executed."""

from __future__ import annotations

import ast
import warnings
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from quillgpt.config.expressions import Imported, Names, Unread, Value, evaluate
from quillgpt.errors import ConfigError

LARGEST_FILE_BYTES = 1 << 18

STATEMENTS = {
    ast.AugAssign: "an assignment to a part of something",
    ast.AsyncFor: "a loop",
    ast.AsyncFunctionDef: "a function",
    ast.AsyncWith: "a with statement",
    ast.ClassDef: "a class",
    ast.Delete: "a deletion",
    ast.For: "a loop",
    ast.FunctionDef: "a function",
    ast.Match: "a match statement",
    ast.Raise: "a raise statement",
    ast.Try: "a try statement",
    ast.While: "a loop",
    ast.With: "a with statement",
}
ALLOWED = "only values, earlier names, arithmetic, text and comparisons are read, nothing is executed"

RUNS_ANYTHING = ("exec", "eval", "setattr", "__import__")
ALL_NAMES = ("globals", "locals", "vars")
READING = ("items", "keys", "values", "get", "copy")
"""Methods of `globals()` that only read."""

BY_MACHINE = frozenset({"device", "dtype", "compile", "backend"})
"""Settings that Quill chooses itself if a file sets them by the machine."""

SCOPES = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass
class NanogptFile:
    """The content of a nanoGPT config file.

    Attributes:
        values: The values that it assigns, by name; names with a leading underscore are left out, as in nanoGPT.
        ignored: Names that are no settings and whose values are not understood.
        skipped: Statements that decide no setting, with their lines.
        chosen: Settings that it sets by the machine, and that Quill chooses instead.
    """

    values: dict[str, Value] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    chosen: list[str] = field(default_factory=list)


def read_nanogpt(path: Path, defaults: Mapping[str, Value]) -> NanogptFile:
    """Read a nanoGPT config file.

    Assignments are evaluated if they consist of values, earlier names, arithmetic, text and comparisons. Anything else,
    such as an import, a call or a loop, is skipped if no setting depends on it.

    Args:
        path: The file.
        defaults: The values of all settings before the file, by name; nanoGPT's train.py defines them likewise.

    Raises:
        ConfigError: The file cannot be read, or a setting depends on something not understood; names the line.
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
    reader = _StatementReader(defaults)
    try:
        reader.check(module)
        reader.read(module.body)
        return reader.result()
    except Unread as unread:
        raise ConfigError(f"{path} line {unread.line}: found {unread.what}; {ALLOWED}") from None
    except RecursionError:
        raise ConfigError(f"{path} is nested too deeply for a config file") from None


class _StatementReader:
    """Reads statements in order, and keeps the value of every name, or why it is not understood."""

    def __init__(self, defaults: Mapping[str, Value]) -> None:
        self._defaults = defaults
        self._assigned: dict[str, Value | Unread | Imported] = {}
        usual: dict[str, Value | Unread | Imported] = {"__name__": "__main__"}
        usual.update({name: value for name, value in defaults.items() if value != "auto"})
        self._names: Names = ChainMap(self._assigned, usual)
        self._set_by_functions: dict[str, Unread] = {}
        self._given: set[str] = set()
        self._skipped: list[str] = []

    def check(self, module: ast.Module) -> None:
        """Check that nothing in the file can set arbitrary names.

        Raises:
            Unread: Something can.
        """
        only_read: set[int] = set()
        for node in ast.walk(module):
            match node:
                case ast.Attribute(value=ast.Call() as call, attr=attribute) if attribute in READING:
                    only_read.add(id(call))
                case ast.Subscript(value=ast.Call() as call, ctx=ast.Load()):
                    only_read.add(id(call))
                case ast.ImportFrom(names=[ast.alias(name="*")], module=name):
                    raise Unread(node, f"from {name} import *, which may set anything")
                case ast.Call(func=ast.Name(id=name)) if name in RUNS_ANYTHING and not _applies_flags(node):
                    raise Unread(node, f"{name}(), which may set anything")
                case ast.Call(func=ast.Name(id=name)) if name in ALL_NAMES and id(node) not in only_read:
                    raise Unread(node, f"{name}(), which may set anything")
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    reason = Unread(node, f"{node.name}, which is not run and would set it")
                    declarations = (inner for inner in ast.walk(node) if isinstance(inner, ast.Global))
                    self._set_by_functions |= {name: reason for inner in declarations for name in inner.names}

    def read(self, statements: Sequence[ast.stmt]) -> None:
        for statement in statements:
            self._read(statement)

    def result(self) -> NanogptFile:
        """Return the content of the file.

        Raises:
            Unread: A setting depends on something not understood.
        """
        file = NanogptFile(skipped=self._skipped)
        for name, value in (self._assigned | self._set_by_functions).items():
            if name.startswith("_") or (isinstance(value, Imported) and name not in self._defaults):
                continue
            if isinstance(value, Imported):
                value = Unread(ast.Pass(lineno=value.line), f"an import of {value.path}")
            if not isinstance(value, Unread):
                file.values[name] = value
            elif name not in self._defaults:
                file.ignored += [name] if name in self._given else []
            elif value.of_machine and name in BY_MACHINE:
                file.values[name] = self._defaults[name]
                file.chosen.append(name)
            else:
                value.what += f", which decides {name}"
                raise value
        return file

    def _read(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Expr(value=ast.Constant()) | ast.Pass() | ast.Assert() | ast.Global():
                pass
            case ast.Import(names=aliases):
                for alias in aliases:
                    first = alias.name.partition(".")[0]
                    self._assigned[alias.asname or first] = Imported(
                        alias.name if alias.asname else first, statement.lineno
                    )
            case ast.ImportFrom(module=module, names=aliases):
                for alias in aliases:
                    self._assigned[alias.asname or alias.name] = Imported(f"{module}.{alias.name}", statement.lineno)
            case ast.Assign(targets=targets, value=expression):
                value = self._evaluate(expression)
                for target in targets:
                    self._assign(target, value)
            case ast.AnnAssign(target=target, value=expression):
                if expression is not None:
                    self._assign(target, self._evaluate(expression))
            case ast.AugAssign(target=ast.Name(id=name) as target, op=operation, value=expression):
                before = ast.copy_location(ast.Name(name, ast.Load()), target)
                changed = ast.copy_location(ast.BinOp(before, operation, expression), statement)
                self._assign(target, self._evaluate(changed))
            case ast.If(test=test, body=body, orelse=otherwise):
                condition = self._evaluate(test)
                if isinstance(condition, Unread):
                    self._skip(statement, "an if statement", because=condition)
                else:
                    self.read(body if condition else otherwise)
            case ast.Expr(value=expression):
                what = f"{ast.unparse(expression.func)[:40]}()" if isinstance(expression, ast.Call) else "an expression"
                self._skip(statement, what)
            case _:
                self._skip(statement, STATEMENTS.get(type(statement), f"a {type(statement).__name__.lower()}"))

    def _evaluate(self, expression: ast.expr) -> Value | Unread:
        for node in ast.walk(expression):
            if isinstance(node, ast.NamedExpr):
                self._assigned[node.target.id] = Unread(node, "an assignment within an expression")
        try:
            return evaluate(expression, self._names)
        except Unread as unread:
            self._forget_what_may_change(expression, unread)
            return unread

    def _assign(self, target: ast.expr, value: Value | Unread) -> None:
        match target:
            case ast.Name(id=name):
                self._assigned[name] = value
                self._given.add(name)
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                fits = isinstance(value, list | str) and len(value) == len(elements)
                if not fits or any(isinstance(element, ast.Starred) for element in elements):
                    parts = [value if isinstance(value, Unread) else Unread(target, "an unpacking")] * len(elements)
                else:
                    parts = list(value)  # type: ignore[arg-type]
                for element, part in zip(elements, parts, strict=True):
                    self._assign(element, part)
            case ast.Starred(value=inner):
                self._assign(inner, value)
            case _:
                self._skip(target, "an assignment to a part of something")

    def _skip(self, node: ast.AST, what: str, *, because: Unread | None = None) -> None:
        """Skip a statement; names that it may assign or change are not understood from here on."""
        words = what if because is None else f"{what} that depends on {because.what}"
        reason = Unread(node, words, of_machine=because is not None and because.of_machine)
        for name in assigned_names(node):
            self._assigned[name] = reason
        self._forget_what_may_change(node, reason)
        self._skipped.append(f"{what} (line {reason.line})")

    def _forget_what_may_change(self, node: ast.AST, reason: Unread) -> None:
        """Forget lists and dicts that appear in something not understood, which may change them."""
        mentioned = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
        values = [self._assigned[name] for name in mentioned if name in self._assigned]
        changing = {id(value) for value in values if isinstance(value, list | dict)}
        for name, value in self._assigned.items():
            if id(value) in changing:
                self._assigned[name] = reason


def _applies_flags(call: ast.Call) -> bool:
    """Return whether a call runs nanoGPT's configurator.py, which only applies flags, as Quill does."""
    return ast.unparse(call) == "exec(open('configurator.py').read())"


def assigned_names(node: ast.AST) -> Iterator[str]:
    """Yield the names that a statement may assign, also in its branches, but not within functions and classes."""
    match node:
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
            yield name
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
            yield from _assigned_inside(node)
            return
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in aliases)
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            yield name
        case ast.MatchMapping(rest=str(name)):
            yield name
    if isinstance(node, SCOPES):
        yield from _assigned_inside(node)
        return
    for child in ast.iter_child_nodes(node):
        yield from assigned_names(child)


def _assigned_inside(node: ast.AST) -> Iterator[str]:
    """Yield the names that `:=` assigns within a function or comprehension; its other variables are local."""
    yield from (inner.target.id for inner in ast.walk(node) if isinstance(inner, ast.NamedExpr))
