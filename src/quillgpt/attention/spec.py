"""The specification of an attention kernel."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from json import dumps, loads
from typing import Any

from quillgpt.config.schema.attention import (
    OPTIONS,
    USUAL,
    AttentionType,
    LenScale,
    PolyForm,
    check_options,
    has_signed_weights,
    options_of,
    parse_attn_type,
)
from quillgpt.errors import ConfigError


@dataclass(frozen=True)
class KernelSpec:
    """The function of an attention kernel: its name, and the options that `AttentionFields` declares and explains."""

    attn_type: str = "SM"
    poly_form: PolyForm = USUAL["poly_form"]
    poly_range: float = USUAL["poly_range"]
    len_scale: LenScale = USUAL["len_scale"]
    len_alpha: float = USUAL["len_alpha"]
    attn_bias: float = USUAL["attn_bias"]
    row_norm: bool = USUAL["row_norm"]
    learn_tau: bool = USUAL["learn_tau"]
    learn_gain: bool = USUAL["learn_gain"]
    qk_norm: bool = USUAL["qk_norm"]

    def __post_init__(self) -> None:
        """Parse the name once. In compiled code, cached properties can only be read."""
        _ = self.type, self.written

    def __str__(self) -> str:
        """Name the kernel, with what differs from the usual."""
        usual = KernelSpec(self.attn_type)
        changed = {name: value for name, value in asdict(self).items() if value != getattr(usual, name)}
        return self.attn_type + "".join(f", {name} = {value}" for name, value in changed.items())

    def swapped(self, attn_type: str, **options: Any) -> KernelSpec:
        """Return another kernel for the same parameters.

        Options that both kernels have stay, unless others are given: what a model learnt for its heads stays in use.

        Raises:
            ConfigError: The kernel lacks a given option.
        """
        kept = options_of(attn_type, {name: getattr(self, name) for name in OPTIONS})
        if has_signed_weights(parse_attn_type(attn_type), options.get("poly_form", self.poly_form)):
            kept["row_norm"] = False
        try:
            check_options(attn_type, options)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        return KernelSpec(attn_type, **kept | options)

    @cached_property
    def written(self) -> str:
        """The kernel as text, for `read_spec`: PyTorch's custom operations take only plain types."""
        return dumps(asdict(self))

    @cached_property
    def type(self) -> AttentionType:
        """The parsed name."""
        return parse_attn_type(self.attn_type)

    @property
    def of_distance(self) -> bool:
        """Whether the weights depend on the distance of query and key instead of their product."""
        return self.type.family in ("GK", "GKn", "GKpoly")

    @property
    def normalized(self) -> bool:
        """Whether each query's weights add up to 1."""
        return self.row_norm or self.type.family in ("SM", "GKn")

    @property
    def is_softmax(self) -> bool:
        """Whether the weights are a softmax of their arguments: adding one number to all of them changes nothing."""
        return self.normalized and (self.type.family in ("SM", "GK", "GKn") or self.attn_type == "PA_exp")

    @property
    def reach(self) -> float | None:
        """How far below 0 its polynomial is near exp; None if it has none, or one without such an end (taylor)."""
        n = float(self.type.n)
        ends = {"power2": 2**n, "limit": n, "squared-taylor": 2 * 2**n, "chebyshev": self.poly_range}
        return ends.get(self.poly_form) if self.type.family == "GKpoly" else None

    @property
    def degree(self) -> int | None:
        """Degree of the weights as a polynomial of the argument; None if they are no polynomial."""
        n = self.type.n
        if self.type.family == "GKpoly":
            return {"power2": 1 << n, "squared-taylor": 2 << n}.get(self.poly_form, n)
        return {"PA_square": 2, "PA_identity": 1}.get(self.attn_type)

    @property
    def depth(self) -> int | None:
        """Number of multiplications one after another in attention; None if it is no polynomial.

        One for the attention scores, those of the polynomial, one for the mask, one for the sum over values; constants
        count as folded into the weights. This estimates the cost of encrypted computation; it is not measured. Division
        by the row sums is no polynomial, so normalised kernels have no depth. Norms of queries and keys do not count.
        """
        if self.degree is None or self.normalized:
            return None
        return 3 + self._polynomial_depth(self.degree)

    def _polynomial_depth(self, degree: int) -> int:
        if self.type.family == "PA":
            return degree - 1
        squarings = {"power2": self.type.n, "squared-taylor": self.type.n + 1, "limit": (degree - 1).bit_length()}
        return squarings.get(self.poly_form, degree.bit_length())  # ceil(log2(degree + 1))


@lru_cache
def read_spec(written: str) -> KernelSpec:
    """Return the kernel with that `written`; a process parses every text once."""
    return KernelSpec(**loads(written))


SOFTMAX = KernelSpec()
"""What stock classes compute."""
