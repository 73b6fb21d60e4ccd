"""Values of settings: parsed from text, TOML or Python, and what a setting takes in words."""

from __future__ import annotations

from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, ConfigDict, StringConstraints, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

NONE_WORD = "none"
"""The word that unsets an optional setting in text and in TOML, which has no null."""

SECONDS = {"s": 1, "m": 60, "h": 3600}

LARGEST_SAID = 1000
"""Larger upper bounds are beyond every machine, and are mentioned only when a value exceeds them."""


def seconds_of(duration: str) -> float:
    """Return the seconds of a duration such as 90s, 10m or 2h."""
    return float(duration[:-1]) * SECONDS[duration[-1]]


def read_value(field: FieldInfo, value: object, *, lax: bool) -> object:
    """Return `value` as the field's own type.

    Args:
        field: The setting.
        value: The value as it was given.
        lax: Accept text for a number or a truth value, and 5000.0 for 5000. Otherwise types must match, except that a
            whole number is accepted for any number.

    Raises:
        ValueError: The value does not fit; the message says what is expected.
    """
    if accepts_none(field) and isinstance(value, str) and value.strip().lower() == NONE_WORD:
        return None
    adapter: TypeAdapter[Any] = TypeAdapter(
        field.rebuild_annotation(), config=ConfigDict(strict=not lax, allow_inf_nan=False)
    )
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        limits = [detail["ctx"]["le"] for detail in error.errors() if detail["type"] == "less_than_equal"]
        passed = [f"at most {limit:,}" for limit in limits if limit > LARGEST_SAID]
        raise ValueError(", ".join([expectation(field), *passed])) from None


def accepts_none(field: FieldInfo) -> bool:
    """Return whether a setting can be unset."""
    return any(kind is NoneType for kind, _ in _alternatives(field.annotation, field.metadata))


def accepts_bool(field: FieldInfo) -> bool:
    """Return whether a setting can be true or false, so that its flag without a value means true."""
    return any(kind is bool for kind, _ in _alternatives(field.annotation, field.metadata))


def expectation(field: FieldInfo) -> str:
    """Return what a setting takes, in words: `a whole number above 0 or none`."""
    words = expectations(field)
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + f" or {words[-1]}"


def expectations(field: FieldInfo) -> list[str]:
    """Return the alternatives that a setting takes, in words: its choices, `text`, `a number above 0`, `none`."""
    return [
        word for kind, metadata in _alternatives(field.annotation, field.metadata) for word in _words(kind, metadata)
    ]


def spell_value(value: object) -> str:
    """Return a value as it is written in a flag or in the environment."""
    if value is None:
        return NONE_WORD
    return str(value).lower() if isinstance(value, bool) else str(value)


def _alternatives(annotation: Any, metadata: list[Any]) -> Iterator[tuple[Any, list[Any]]]:
    """Yield every member of a union with its bounds."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *extra = get_args(annotation)
        bounds = [bound for item in extra for bound in (item.metadata if isinstance(item, FieldInfo) else [item])]
        yield from _alternatives(inner, [*metadata, *bounds])
    elif origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from _alternatives(member, metadata)
    else:
        yield annotation, metadata


def _words(kind: Any, metadata: list[Any]) -> list[str]:
    if get_origin(kind) is Literal:
        return [str(choice) for choice in get_args(kind)]
    if kind is bool:
        return ["true", "false"]
    if kind is NoneType:
        return [NONE_WORD]
    if any(isinstance(item, StringConstraints) for item in metadata):
        return ["a time such as 90s, 10m or 2h"]
    noun = {int: "a whole number", float: "a number", str: "text"}[kind]
    said = [item for item in metadata if not isinstance(item, AfterValidator) and not _is_far(item)]
    bounds = [_bound(item) for item in said]
    return [" ".join([noun, " and ".join(bounds)]).strip()]


def _is_far(item: object) -> bool:
    """Return whether a bound is too large to be mentioned."""
    return isinstance(item, Le) and item.le > LARGEST_SAID  # type: ignore[operator]


def _bound(item: object) -> str:
    match item:
        case Gt(gt=limit):
            return f"above {limit}"
        case Ge(ge=limit):
            return f"of at least {limit}"
        case Lt(lt=limit):
            return f"below {limit}"
        case Le(le=limit):
            return f"at most {limit}"
    raise TypeError(f"a setting has a bound that cannot be put into words: {item!r}")
