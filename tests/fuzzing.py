"""Fuzzing: how a property is tried many times, what a failure may look like, and how files are damaged."""

from __future__ import annotations

import copy
import functools
import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quillgpt.errors import UserError

DEEP = 30
"""How many times as many cases a deep run tries; it draws others each time."""

CASES: dict[str, int] = {}
"""Cases of each property in the default suite."""

randoms = st.randoms(use_true_random=False)


def fuzz(cases: int, **arguments: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a property a test of so many cases, always the same ones, and a deep test of many more.

    What the property takes besides `arguments` are fixtures; each is made once for all cases.
    """

    def declare(holds: Callable[..., None]) -> Callable[..., None]:
        CASES[f"{holds.__module__}.{holds.__qualname__}"] = cases
        fixtures = [each for each in inspect.signature(holds).parameters.values() if each.name not in arguments]

        def test(depth: int, **made: Any) -> None:
            tried = 0

            def case(**drawn: Any) -> None:
                nonlocal tried
                tried += 1
                holds(**made, **drawn)

            chosen = settings(
                max_examples=cases * depth,
                derandomize=depth == 1,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            chosen(given(**arguments)(case))()
            assert tried >= cases, f"only {tried} of {cases} cases are different"

        depth = inspect.Parameter("depth", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        functools.update_wrapper(test, holds)
        del test.__wrapped__  # pytest would take the property's signature, and its arguments for fixtures
        test.__signature__ = inspect.Signature([depth, *fixtures])  # type: ignore[attr-defined]
        depths = [pytest.param(1, id="quick"), pytest.param(DEEP, id="deep", marks=pytest.mark.deep)]
        return pytest.mark.parametrize("depth", depths)(test)

    return declare


def check_message(message: str) -> str:
    """Check that a message, as the command line prints it, tells a person something, and return it."""
    words = " ".join(message.split())
    assert len(words) >= 12, f"says too little: {words!r}"
    assert len(words) <= 8000, f"says too much: {len(words)} characters"
    for internal in ("Traceback", "<class", "object at 0x", "Error(", "<built-in", "NoneType"):
        assert internal not in words, words
    return words


@contextmanager
def only_user_errors() -> Iterator[None]:
    """Let nothing out of the block but a UserError that says something, and end it there."""
    try:
        yield
    except UserError as error:
        check_message(str(error))


ODD_TEXTS = (
    "",
    " ",
    "x",
    "..",
    "/",
    "a\0b",
    "\ud800",
    "none",
    "nan",
    "-1",
    "1e999",
    "é漢😀",
    "\r\n",
    "\ufeff",
    "a" * 300,
)
ODD_VALUES: tuple[Any, ...] = (
    *ODD_TEXTS,
    *(None, True, False, 0, -1, 1, 2, 255, 2**31, 2**32, 2**63, 2**64, 10**400, -(10**30)),
    *(0.5, -0.0, 1e308, float("nan"), float("inf"), [], [[]], [None], {}, {"a": 1}, {"": []}),
)


def mutate(document: Any, random: Random, changes: int = 2) -> Any:
    """Return a copy of a JSON document in which up to so many places were changed, removed, doubled or renamed."""
    changed = copy.deepcopy({"whole": document})
    for _ in range(random.randint(1, changes)):
        holder, key = random.choice(list(_places(changed)))
        match random.choice(("replace", "replace", "remove", "swap", "rename", "nest")):
            case "remove" if holder is not changed:
                del holder[key]
            case "swap":
                other, other_key = random.choice(list(_places(changed)))
                if other is not changed and holder is not changed:
                    holder[key] = copy.deepcopy(other[other_key])
            case "rename" if isinstance(holder, dict) and holder is not changed:
                holder[random.choice(ODD_TEXTS)] = holder.pop(key)
            case "nest":
                holder[key] = random.choice(([holder[key]], {"a": holder[key]}))
            case _:
                holder[key] = copy.deepcopy(random.choice(ODD_VALUES))
    return changed["whole"]


def _places(value: Any, at_most: int = 40) -> Iterator[tuple[Any, Any]]:
    """Yield each container with each of its keys; of a long container only the first and the last few."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    for key in keys if len(keys) <= at_most else [*keys[: at_most // 2], *keys[-at_most // 2 :]]:
        yield value, key
        yield from _places(value[key], at_most)


def as_json(document: Any) -> bytes:
    """Return a document as JSON; what UTF-8 cannot write is escaped."""
    return json.dumps(document, ensure_ascii=True).encode()


def damage(content: bytes, random: Random) -> bytes:
    """Return a file's content after what disks, editors and copies do to it.

    What is drawn does not depend on the content's length, because a file that has times in it may be a byte longer
    in the next case, and Hypothesis wants the same draws again.
    """
    at = min(int(random.random() * (len(content) + 1)), len(content))
    match random.choice(("flip", "flip", "cut", "zeros", "insert", "nest", "other")):
        case "flip" if content:
            at = min(at, len(content) - 1)
            return content[:at] + bytes([content[at] ^ 1 << random.randrange(8)]) + content[at + 1 :]
        case "cut":
            return content[:at]
        case "zeros":
            return content[:at] + bytes(len(content) - at)
        case "insert":
            return (
                content[:at] + random.choice((b"\xff", b"\0", b"\xef\xbb\xbf", b'"', b"{", b"9" * 5000)) + content[at:]
            )
        case "nest":
            return random.choice((b"[", b'{"a":')) * 100_000
    return random.choice((b"", b"null", b"[]", b"{}", b"3", b'"text"', b"NaN", b"\xff\xfe{\0}\0", b"9" * 5000))
