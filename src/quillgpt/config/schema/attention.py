"""The names of attention kernels, and the settings of attention; quillgpt.attention implements the kernels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, cast, get_args

from pydantic import Field, model_validator

from quillgpt.activations import ACTIVATIONS
from quillgpt.config.schema.base import Settings
from quillgpt.errors import did_you_mean

Family = Literal["SM", "GK", "GKn", "GKpoly", "PA"]
FAMILIES: tuple[Family, ...] = get_args(Family)
PolyForm = Literal["power2", "limit", "taylor", "chebyshev", "squared-taylor"]
LenScale = Literal["block", "pos", "none", "seq"]

LARGEST_POLY = 14
"""Beyond it, (1 + x/2^n)^(2^n) is too inexact in float32: its relative error is 2^n units in the last place."""

VALID = f"SM, GK, GKn, GKpoly-1 to GKpoly-{LARGEST_POLY}, {', '.join('PA_' + name for name in ACTIVATIONS)}"


@dataclass(frozen=True)
class AttentionType:
    """A parsed value of `attn_type`.

    Attributes:
        family: The family of kernels.
        n: The number after GKpoly-.
        activation: The name after PA_.
    """

    family: Family
    n: int = 0
    activation: str = ""


def parse_attn_type(name: str) -> AttentionType:
    """Parse the name of an attention kernel.

    Raises:
        ValueError: There is no such kernel; the message lists all.
    """
    if name in ("SM", "GK", "GKn"):
        return AttentionType(name)  # type: ignore[arg-type]
    poly = re.fullmatch(r"GKpoly-([1-9][0-9]?)", name, re.ASCII)
    if poly and int(poly[1]) <= LARGEST_POLY:
        return AttentionType("GKpoly", n=int(poly[1]))
    family, _, activation = name.partition("_")
    if family == "PA" and activation in ACTIVATIONS:
        return AttentionType("PA", activation=activation)
    known = ("SM", "GK", "GKn", "GKpoly-8", *(f"PA_{activation}" for activation in ACTIVATIONS))
    raise ValueError(f"{name} is no attention kernel; expected {VALID}{did_you_mean(name, known)}")


def has_signed_weights(kind: AttentionType, poly_form: PolyForm) -> bool:
    """Return whether attention weights of a kernel can be negative; then they cannot be divided by their sum."""
    if kind.family == "GKpoly":
        return poly_form == "chebyshev" or (poly_form in ("limit", "taylor") and kind.n % 2 == 1)
    return kind.family == "PA" and ACTIVATIONS[kind.activation].signed


def options_of(attn_type: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a kernel has."""
    family = parse_attn_type(attn_type).family
    return {name: value for name, value in options.items() if family in OPTIONS[name]}


def check_options(attn_type: str, options: Mapping[str, Any]) -> None:
    """Check that a kernel has the given options, and that they can be combined.

    Raises:
        ValueError: The kernel lacks an option, or cannot be normalised.
    """
    kind = parse_attn_type(attn_type)
    for name, value in options.items():
        if kind.family not in OPTIONS[name]:
            families = ", ".join(sorted(OPTIONS[name]))
            raise ValueError(f"{name} = {value} is for {families}, and attn_type is {attn_type}; leave it out")
    if options.get("row_norm") and has_signed_weights(kind, options.get("poly_form", "power2")):
        raise ValueError(
            f"row_norm = true divides by the sum of a query's weights, and those of {attn_type} can be negative; "
            "leave it out"
        )


def option(default: Any, *, of: tuple[Family, ...], description: str) -> Any:
    """Declare an option of attention kernels.

    Args:
        default: The default value.
        of: The kernels that have the option.
        description: The text of --help.
    """
    return Field(default, description=description, json_schema_extra={"families": [*of]})


class AttentionFields(Settings):
    """Attention."""

    attn_type: str = Field(
        "SM",
        description=f"Attention kernel. SM: softmax. GK: Gaussian, exp(-|q-k|^2 / (2 sqrt D)), not normalised; GKn: the same, normalised. GKpoly-N: GK with a polynomial for exp, 1 to {LARGEST_POLY}. PA_NAME: the activation NAME of the attention scores ({', '.join(ACTIVATIONS)}).",
    )
    attn_path: Literal["auto", "sdpa", "explicit", "fused", "recompute", "augmented", "triton"] = Field(
        "auto",
        description="Implementation of attention; auto takes the fastest by a short measurement. SM: sdpa, explicit, or fused: whole blocks at once, on CPUs with a C++ compiler. GK, GKn: recompute or augmented. GKpoly, PA: recompute. triton: recompute as a Triton kernel, on GPUs.",
    )
    poly_form: PolyForm = option(
        "power2",
        of=("GKpoly",),
        description="GKpoly's polynomial. power2: (1 + x/2^N)^(2^N), degree 2^N. limit: (1 + x/N)^N. taylor: of degree N. chebyshev: of degree N on [-poly_range, 0]. squared-taylor: (1 + y + y^2/2)^(2^N) with y = x/2^N, degree 2^(N+1).",
    )
    poly_range: Annotated[float, Field(gt=0)] = option(
        16.0, of=("GKpoly",), description="poly_form chebyshev approximates exp from minus this to 0."
    )
    len_scale: LenScale = option(
        "block",
        of=("PA",),
        description="PA divides its sums by this to the power of len_alpha. block: block_size. pos: the number of keys that a query sees. none: 1. seq: the length of the sequence, as in the original; appending text then changes earlier outputs.",
    )
    len_alpha: Annotated[float, Field(ge=0)] = option(1.0, of=("PA",), description="Exponent of len_scale.")
    attn_bias: float = option(0.0, of=("PA",), description="Added to the attention scores of PA before the activation.")
    row_norm: bool = option(
        False,
        of=("GK", "GKpoly", "PA"),
        description="Divide each query's attention weights by their sum; for kernels whose weights are never negative.",
    )
    learn_tau: bool = option(
        False,
        of=("GK", "GKn", "GKpoly"),
        description="Learn the width of the Gaussian, for each key and value head (GK, GKn, GKpoly).",
    )
    learn_gain: bool = option(False, of=FAMILIES, description="Learn a factor for the output of each head.")
    qk_norm: bool = option(
        False,
        of=FAMILIES,
        description="Normalise queries and keys to length sqrt D (gpt2; qwen3 always does, with learned weights), so that the argument of GK is in [-2 sqrt D, 0].",
    )

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        options = {name: getattr(self, name) for name in OPTIONS}
        check_options(self.attn_type, {name: value for name, value in options.items() if value != USUAL[name]})
        return self


OPTIONS: dict[str, frozenset[Family]] = {
    name: frozenset(cast(list[Family], field.json_schema_extra["families"]))
    for name, field in AttentionFields.model_fields.items()
    if isinstance(field.json_schema_extra, dict)
}
"""The options of attention kernels, as `AttentionFields` declares them, with the kernels that have them."""


USUAL: dict[str, Any] = {name: AttentionFields.model_fields[name].default for name in OPTIONS}
"""Their usual values."""


class RangePenaltyFields(Settings):
    """Range penalty."""

    range_penalty: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description="Weight of a penalty on arguments x of GK, GKn and GKpoly beyond range_limit: the mean of max(0, -x - range_limit)^2 over pairs, heads and layers. It is added to the training objective, not to the losses that are shown.",
    )
    range_limit: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Arguments from minus this to 0 cost nothing. Unset: the range in which the polynomial is close to exp, such as 2^N.",
    )


class KernelOptionFields(Settings):
    """Options of another attention kernel; unset: the model's own option, else the default."""

    poly_form: PolyForm | None = Field(None, description="The polynomial of GKpoly.")
    poly_range: Annotated[float, Field(gt=0)] | None = Field(
        None, description="poly_form chebyshev approximates exp from minus this to 0."
    )
    len_scale: LenScale | None = Field(None, description="What PA divides its sums by.")
    len_alpha: Annotated[float, Field(ge=0)] | None = Field(None, description="Exponent of len_scale.")
    attn_bias: float | None = Field(None, description="Added to the attention scores of PA.")
    row_norm: bool | None = Field(None, description="Divide each query's attention weights by their sum.")

    @property
    def kernel_options(self) -> dict[str, Any]:
        """The options that are set, by name."""
        options = {name: getattr(self, name) for name in KernelOptionFields.model_fields}
        return {name: value for name, value in options.items() if value is not None}


class OtherKernelFields(KernelOptionFields):
    """Attention."""

    attn_type: str | None = Field(None, description="Use another attention kernel than the model's own; eval says so.")

    @model_validator(mode="after")
    def _check_name(self) -> Self:
        if self.attn_type is not None:
            parse_attn_type(self.attn_type)
        return self
