"""Training in several processes: who takes part, how they start, and how they share the work."""

from quillgpt.distributed.world import ALONE, World

__all__ = ["ALONE", "World"]
