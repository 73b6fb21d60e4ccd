"""Learning rates as pure functions of the iteration."""

from __future__ import annotations

import math

from quillgpt.config.schema import TrainSettings


def cosine(iteration: int, *, highest: float, lowest: float, warmup: int, end: int) -> float:
    """Rise linearly, then fall along half a cosine: nanoGPT's schedule.

    Args:
        iteration: Optimizer steps done so far.
        highest: Rate after the warm-up.
        lowest: Rate from `end` on.
        warmup: Iterations of the rise; the first of them already has a rate above 0.
        end: Iteration at which the fall ends.
    """
    if iteration < warmup:
        return highest * (iteration + 1) / (warmup + 1)
    if iteration >= end:
        return lowest
    fallen = (iteration - warmup) / (end - warmup)
    return lowest + (highest - lowest) * 0.5 * (1 + math.cos(math.pi * fallen))


def warmup_stable_decay(
    iteration: int, *, highest: float, lowest: float, warmup: int, end: int, decay_fraction: float
) -> float:
    """Rise linearly, stay, and fall linearly over the last part (Hu et al. 2024, arXiv 2404.06395).

    Args:
        iteration: Optimizer steps done so far.
        highest: Rate between rise and fall.
        lowest: Rate from `end` on.
        warmup: Iterations of the rise.
        end: Iteration at which the fall ends.
        decay_fraction: Share of `end` that the fall takes, at most all that the rise leaves.
    """
    if iteration < warmup:
        return highest * (iteration + 1) / (warmup + 1)
    if iteration >= end:
        return lowest
    start = max(warmup, end * (1 - decay_fraction))
    if iteration <= start:
        return highest
    fallen = (iteration - start) / (end - start)
    return highest + (lowest - highest) * fallen


def learning_rate(iteration: int, settings: TrainSettings) -> float:
    """Return the learning rate of the step from `iteration` to the next one."""
    if not settings.decay_lr:
        return settings.learning_rate
    end = settings.lr_decay_iters
    if settings.teacher_iters:  # each model has a schedule of its own, and so has one that the run cuts short
        within = settings.within_model(iteration)
        end = max(1, min(end, settings.teacher_iters, settings.max_iters - (iteration - within)))
        iteration = within
    if settings.lr_schedule == "cosine":
        return cosine(
            iteration,
            highest=settings.learning_rate,
            lowest=settings.min_lr,
            warmup=settings.warmup_iters,
            end=end,
        )
    return warmup_stable_decay(
        iteration,
        highest=settings.learning_rate,
        lowest=settings.min_lr,
        warmup=settings.warmup_iters,
        end=end,
        decay_fraction=settings.decay_fraction,
    )
