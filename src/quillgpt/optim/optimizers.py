"""The table of optimizers: what the setting `optimizer` names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from quillgpt.config.schema import TrainSettings
from quillgpt.errors import CheckpointError, cut
from quillgpt.model import GPT
from quillgpt.optim.groups import NamedParameters, group_parameters
from quillgpt.optim.muon import Muon

STEP = "step"
"""What AdamW calls the number of its steps."""

STATE_NAMES: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.AdamW: (STEP, "exp_avg", "exp_avg_sq"),
    Muon: ("momentum_buffer",),
}
"""What optimizers remember of each parameter after a step."""


class OptimizerSet:
    """One or more torch optimizers that update all parameters together.

    Each parameter group keeps the learning rate that it was made with as `initial_lr`, torch's name for it.

    Args:
        optimizers: The torch optimizers.
        names: The name of every parameter, for saving state by name.
        base_lr: The setting `learning_rate`, of which `set_learning_rate` takes a share.
    """

    def __init__(self, optimizers: list[torch.optim.Optimizer], names: dict[Tensor, str], base_lr: float) -> None:
        self.optimizers = optimizers
        self._names = names
        self._base_lr = base_lr
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["initial_lr"] = group["lr"]

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the learning rate; that of every group keeps its ratio to the setting `learning_rate`."""
        multiplier = learning_rate / self._base_lr if self._base_lr else 0.0
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(group["initial_lr"] * multiplier)
                else:
                    group["lr"] = group["initial_lr"] * multiplier

    def step(self, scaler: torch.amp.GradScaler) -> None:
        """Update all parameters and drop the gradients.

        Args:
            scaler: Skips the update if float16 gradients overflowed; does nothing in other formats.
        """
        for optimizer in self.optimizers:
            scaler.step(optimizer)
            optimizer.zero_grad(set_to_none=True)
        scaler.update()

    def keep_rates_on(self, device: torch.device) -> list[Tensor]:
        """Hold the learning rates on a device, where a recorded step reads them, and return them."""
        rates = []
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = torch.tensor(float(group["lr"]), device=device)
                group["capturable"] = device.type == "cuda"
                rates.append(group["lr"])
        return rates

    def state(self) -> dict[str, Tensor]:
        """Return all state as tensors under `parameter name/state name`."""
        return {
            f"{self._names[parameter]}/{key}": value
            for optimizer in self.optimizers
            for parameter, entries in optimizer.state.items()
            for key, value in entries.items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state that `state` returned; an empty one is that before the first step.

        Raises:
            CheckpointError: It is the state of other optimizers or parameters.
        """
        owners = {
            self._names[parameter]: (optimizer, parameter)
            for optimizer in self.optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        expected = {f"{name}/{key}" for name, (optimizer, _) in owners.items() for key in STATE_NAMES[type(optimizer)]}
        if state and (odd := sorted(state.keys() ^ expected)):
            whose = "the checkpoint's optimizer state has" if odd[0] in state else "this optimizer needs"
            raise CheckpointError(
                f"the checkpoint was trained with another optimizer: only {whose} {cut(odd[0])}; resume with the "
                "settings of the run itself, --optimizer among them"
            )
        for optimizer in self.optimizers:
            optimizer.state.clear()
        for full_name, value in state.items():
            name, key = full_name.rsplit("/", 1)
            optimizer, parameter = owners[name]
            check_remembered(full_name, value, torch.empty((), device="meta") if key == STEP else parameter)
            optimizer.state[parameter][key] = value.to(parameter.device, copy=True)


def check_remembered(name: str, value: Tensor, like: Tensor) -> None:
    """Check that what an optimizer remembers has the shape and the type of what it belongs to, and is finite.

    Its kernels do not: they would write beyond the end of what is too short.

    Raises:
        CheckpointError: It has not.
    """
    found, expected = (f"{tuple(each.shape)} in {str(each.dtype).removeprefix('torch.')}" for each in (value, like))
    if found != expected:
        raise CheckpointError(
            f"the checkpoint's optimizer state is of another model: {name} is {found}, expected {expected}; start a "
            "new run from its weights, with --init_from=RUN and another --out_dir"
        )
    if not value.isfinite().all():
        raise CheckpointError(
            f"the checkpoint's optimizer state is damaged: {name} is not finite; start a new "
            "run from its weights, with --init_from=RUN and another --out_dir"
        )


def adamw(model: GPT, settings: TrainSettings) -> list[torch.optim.Optimizer]:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) for all parameters; only matrices decay."""
    groups = group_parameters(model)
    return [_adamw(groups.decayed, groups.vectors, settings)]


def muon(model: GPT, settings: TrainSettings) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest."""
    groups = group_parameters(model)
    matrices = groups.block_matrices
    fused: dict[Tensor, list[int]] = {
        matrix: rows
        for end, rows in model.config.fused_maps.items()
        for name, matrix in matrices.items()
        if name.endswith(end)
    }
    of_blocks = Muon(
        matrices.values(),
        lr=settings.muon_learning_rate,
        weight_decay=settings.weight_decay,
        momentum=settings.muon_momentum,
        fused_maps=fused,
        cautious=settings.cautious_weight_decay,
    )
    return [of_blocks, _adamw(groups.embeddings, groups.vectors, settings)]


OPTIMIZERS: dict[str, Callable[[GPT, TrainSettings], list[torch.optim.Optimizer]]] = {
    "adamw": adamw,
    "muon": muon,
}


def make_optimizers(model: GPT, settings: TrainSettings) -> OptimizerSet:
    """Return the optimizer that the settings name, for all trainable parameters of the model."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in group_parameters(model).trained.items()}
    return OptimizerSet(OPTIMIZERS[settings.optimizer](model, settings), names, settings.learning_rate)


def _adamw(decayed: NamedParameters, vectors: NamedParameters, settings: TrainSettings) -> torch.optim.AdamW:
    groups = [
        {"params": list(parameters.values()), "weight_decay": weight_decay}
        for parameters, weight_decay in ((decayed, settings.weight_decay), (vectors, 0.0))
        if parameters
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(settings.beta1, settings.beta2), fused=True)
