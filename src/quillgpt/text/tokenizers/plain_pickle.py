"""Reads pickles of plain values with an interpreter of our own, which runs no code and takes little memory.

Python's unpickler can be kept from importing, but not from allocating a memo table of any size that a file of 11 bytes
names, nor from hashing tuples nested a billion times.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any

MOST_BYTES = 8 << 20
MOST_OPERATIONS = 2_000_000
MOST_CONTAINERS = 100_000
"""All far more than a table of a hundred thousand characters needs."""

Key = str | bytes | int | float | bool | None


class PickleError(ValueError):
    """A pickle cannot be read; the message is a part of a sentence."""


class CodeError(PickleError):
    """A pickle wants to run code, or to refer to objects outside of it."""


_MARK = object()
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: _MARK,
}
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_CONTAINERS = {"EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "LIST", "DICT", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read_plain_pickle(content: bytes) -> Any:
    """Return the value of a pickle, made of dicts, lists, tuples, sets, text, bytes and numbers.

    Raises:
        CodeError: It wants to run code.
        PickleError: It is damaged or too large, or has keys that are not text or numbers.
    """
    if len(content) > MOST_BYTES:
        raise PickleError(f"it has {len(content):,} bytes, more than any table of characters ({MOST_BYTES:,})")
    reader = _Reader()
    containers = 0
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(content)):
            containers += operation.name in _CONTAINERS
            if count > MOST_OPERATIONS or containers > MOST_CONTAINERS:
                raise PickleError("it holds far more than a table of characters")
            reader.take(operation.name, argument)
        return reader.result()
    except PickleError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, UnicodeError) as error:
        raise PickleError("its operations do not fit together, or it ends too early") from error


class _Reader:
    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def result(self) -> Any:
        (value,) = self._stack
        if value is _MARK:
            raise PickleError("it ends too early")
        return value

    def take(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in _VALUES:
            stack.append(argument)
        elif name in _TUPLES:
            count = _TUPLES[name]
            if len(stack) < count:
                raise LookupError
            stack[-count:] = [tuple(stack[-count:])]
        elif name in ("TUPLE", "LIST", "DICT"):
            values = self._since_mark()
            stack.append(tuple(values) if name == "TUPLE" else values if name == "LIST" else _dict(values))
        elif name in ("APPEND", "APPENDS", "ADDITEMS"):
            values = [stack.pop()] if name == "APPEND" else self._since_mark()
            if name == "ADDITEMS":
                stack[-1].update(map(_key, values))
            else:
                stack[-1].extend(values)
        elif name in ("SETITEM", "SETITEMS"):
            values = [stack.pop(-2), stack.pop()] if name == "SETITEM" else self._since_mark()
            stack[-1].update(_dict(values))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if argument is None else argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self._since_mark()
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise CodeError(self._wish(name, argument))

    def _since_mark(self) -> list[Any]:
        place = len(self._stack) - 1
        while self._stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise LookupError
        values = self._stack[place + 1 :]
        del self._stack[place:]
        return values

    def _wish(self, name: str, argument: Any) -> str:
        wanted = argument if name in ("GLOBAL", "INST") else " ".join(map(str, self._stack[-2:]))
        if name in ("GLOBAL", "INST", "STACK_GLOBAL"):
            shown = "".join(character if character.isprintable() else "?" for character in str(wanted)[:80])
            return f"it wants to run {shown.replace(' ', '.', 1)}"
        if name in ("PERSID", "BINPERSID"):
            return "it refers to objects outside the file"
        return f"it has something other than plain values ({name})"


def _dict(values: list[Any]) -> dict[Key, Any]:
    if len(values) % 2:
        raise LookupError
    return {_key(key): value for key, value in zip(values[::2], values[1::2], strict=True)}


def _key(value: Any) -> Key:
    """Return a key after checking that it is simple: hashing a nested one could take for ever."""
    if value is None or isinstance(value, str | bytes | int | float):
        return value
    raise PickleError(f"it has a {type(value).__name__} as a key, not text or a number")
