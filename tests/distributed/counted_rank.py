"""`quill` in one of several processes, which also counts what it sends and what it holds.

The counts of each iteration, evaluation and save go to the file COUNTS.RANK, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

import quillgpt.cli
from quillgpt.distributed.shards import own_rows
from quillgpt.optim.optimizers import OptimizerSet
from quillgpt.training import trainer
from quillgpt.training.folder import checkpointer

RANK, SIZE = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors of an argument: a tensor, or lists of them."""
    if isinstance(value, Tensor):
        return [value]
    return [tensor for part in value for tensor in tensors_in(part)] if isinstance(value, list | tuple) else []


def nbytes(value: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors_in(value))


class Counter(TorchDispatchMode):
    """Counts the payload of all collectives: those of Python, of DDP's reducer in C++, and of distributed tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        if any(kind.__name__ == "DTensor" for kind in types):
            return NotImplemented  # what it does with the parts of this rank comes here again
        if function.namespace in ("c10d", "_c10d_functional"):
            self.count(function, arguments)
        return function(*arguments, **(options or {}))

    def count(self, function: Any, arguments: Any) -> None:
        match function._schema.name.split("::")[1]:
            case "allreduce_":
                kind, payload = "all-reduce", nbytes(arguments[0])
            case "_allgather_base_":
                kind, payload = "all-gather", nbytes(arguments[0])
            case "all_gather_into_tensor":
                kind, payload = "all-gather", nbytes(arguments[0]) * SIZE
            case "_reduce_scatter_base_":
                kind, payload = "reduce-scatter", nbytes(arguments[1])
            case "alltoall_base_":
                sent, sizes = arguments[1], arguments[4]
                kind, payload = "all-to-all", sent.itemsize * (sum(sizes) - sizes[RANK])
            case "wait_tensor" | "_wrap_tensor_autograd":
                return
            case "broadcast_" | "allgather_" | "barrier":  # of objects, on which ranks agree
                kind, payload = "agreement", nbytes(arguments[0])
            case other:
                kind, payload = other, nbytes(arguments)
        self.counts[kind][0] += 1
        self.counts[kind][1] += payload


record: dict[str, list[Any]] = defaultdict(list)


def counted(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that does the same and counts what is sent meanwhile."""

    def count(*arguments: Any, **options: Any) -> Any:
        with Counter() as counter:
            result = function(*arguments, **options)
        record[phase].append(counter.counts)
        return result

    return count


def held(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of the memory that tensors, or this rank's rows of them, are in."""
    storages = {own_rows(tensor).untyped_storage().data_ptr(): own_rows(tensor).untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in storages.values())


def count_memory(step: trainer.TrainStep) -> None:
    """Note what the step holds besides its gradients."""
    state = [value for value in step.optimizers.state().values() if value.ndim]
    record["memory"].append(
        {
            "weights": held(step.model.parameters()),
            "average": held(step.average.model.parameters()) if step.average else 0,
            "optimizer": held(state),
        }
    )


def most_memory(function: Callable[[], Any]) -> Any:
    """Return what a function returns, and note the most memory that was allocated meanwhile, by C++ too."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        result = function()
    events = (event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]")
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    record["peak"].append(max(accumulate(changes)))
    return result


step_optimizers, do_step = OptimizerSet.step, counted("iteration", trainer.TrainStep.__call__)


def update(optimizers: OptimizerSet, scaler: torch.amp.GradScaler, **options: bool) -> None:
    parameters = [p for each in optimizers.optimizers for group in each.param_groups for p in group["params"]]
    record["gradients"].append(held(p.grad for p in parameters if p.grad is not None))
    step_optimizers(optimizers, scaler, **options)


def iterate(step: trainer.TrainStep, *arguments: Any) -> Any:
    result = most_memory(lambda: do_step(step, *arguments))
    count_memory(step)
    return result


OptimizerSet.step = update  # type: ignore[method-assign]
trainer.TrainStep.__call__ = iterate  # type: ignore[method-assign]
trainer.evaluate_splits = counted("evaluation", trainer.evaluate_splits)
checkpointer.save_checkpoint = counted("save", checkpointer.save_checkpoint)

status = quillgpt.cli.main()
Path(f"{os.environ['COUNTS']}.{RANK}").write_text(json.dumps(record), encoding="utf-8")
sys.exit(status)
