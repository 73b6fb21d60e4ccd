"""How near is near enough, once for all tests."""

FLOAT64 = {"rtol": 1e-12, "atol": 1e-12}
FLOAT32 = {"rtol": 1e-5, "atol": 1e-5}
BFLOAT16_FROBENIUS = 1e-2
"""Largest norm of the error in bfloat16, relative to the norm of the true value."""
EXACT = {"rtol": 0, "atol": 0}
SAME_RUN_ELSEWHERE = 1e-4
"""Largest relative difference between losses of the same ten iterations on another CPU; measured was a tenth of it."""
SAME_RUN_IN_RANKS = 1e-4
"""Largest difference between the losses of one run in one process and in several, nats per token."""
