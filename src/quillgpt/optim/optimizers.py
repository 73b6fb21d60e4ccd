"""The table of optimizers: what the setting `optimizer` names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from quillgpt.config.schema import OptimizerName, TrainSettings
from quillgpt.errors import CheckpointError, cut
from quillgpt.model import GPT
from quillgpt.optim.groups import NamedParameters, ParameterGroups, group_parameters
from quillgpt.optim.muon import Muon


class OptimizerSet:
    """One or more torch optimizers that update all parameters together.

    Each parameter group keeps the learning rate that it was made with as `initial_lr`, torch's name for it.

    Args:
        groups: The parameters.
        settings: Which optimizer, and its hyperparameters.

    Attributes:
        optimizers: The torch optimizers.
    """

    def __init__(self, groups: ParameterGroups, settings: TrainSettings) -> None:
        self.optimizers = OPTIMIZERS[settings.optimizer](groups, settings)
        self._groups = groups
        self._settings = settings
        self._names: dict[Tensor, str] = {parameter: name for name, parameter in groups.trained.items()}
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["initial_lr"] = group["lr"]

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the learning rate; that of every group keeps its ratio to the setting `learning_rate`."""
        base = self._settings.learning_rate
        multiplier = learning_rate / base if base else 0.0
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
        expected = state_after_a_step(self._groups, self._settings)
        if state and (odd := sorted(state.keys() ^ expected.keys())):
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
            check_remembered(full_name, value, expected[full_name])
            optimizer.state[parameter][key] = value.to(parameter.device, copy=True)


def state_after_a_step(groups: ParameterGroups, settings: TrainSettings) -> dict[str, Tensor]:
    """Return the state that an optimizer has after its first step, under `parameter name/state name`.

    The step is done without memory and without arithmetic, so only shapes and number formats of the state mean
    something.
    """
    optimizers = OptimizerSet(groups.without_values(), settings)
    for optimizer in optimizers.optimizers:
        for group in optimizer.param_groups:
            group["fused"] = False  # no fused kernel computes on the device `meta`
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    return optimizers.state()


def remembered_values(groups: ParameterGroups, settings: TrainSettings) -> dict[str, int]:
    """Return how many values an optimizer remembers of each parameter, by its name; counters are left out."""
    values = dict.fromkeys(groups.trained, 0)
    for full_name, value in state_after_a_step(groups, settings).items():
        values[full_name.rsplit("/", 1)[0]] += value.numel() if value.ndim else 0
    return values


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


def adamw(groups: ParameterGroups, settings: TrainSettings) -> list[torch.optim.Optimizer]:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) for all parameters; only matrices decay."""
    return [_adamw(groups.decayed, groups.vectors, settings)]


def muon(groups: ParameterGroups, settings: TrainSettings) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest."""
    matrices = groups.block_matrices
    of_blocks = Muon(
        matrices.values(),
        lr=settings.muon_learning_rate,
        weight_decay=settings.weight_decay,
        momentum=settings.muon_momentum,
        fused_maps={matrices[name]: rows for name, rows in groups.fused_maps.items()},
        cautious=settings.cautious_weight_decay,
    )
    return [of_blocks, _adamw(groups.embeddings, groups.vectors, settings)]


OPTIMIZERS: dict[OptimizerName, Callable[[ParameterGroups, TrainSettings], list[torch.optim.Optimizer]]] = {
    "adamw": adamw,
    "muon": muon,
}


def make_optimizers(model: GPT, settings: TrainSettings) -> OptimizerSet:
    """Return the optimizer that the settings name, for all trainable parameters of the model."""
    return OptimizerSet(group_parameters(model), settings)


def _adamw(decayed: NamedParameters, vectors: NamedParameters, settings: TrainSettings) -> torch.optim.AdamW:
    groups = [
        {"params": list(parameters.values()), "weight_decay": weight_decay}
        for parameters, weight_decay in ((decayed, settings.weight_decay), (vectors, 0.0))
        if parameters
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(settings.beta1, settings.beta2), fused=True)
