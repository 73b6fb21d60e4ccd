"""The table of optimizers: what the setting `optimizer` names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from quillgpt.config.schema import OptimizerName, TrainSettings
from quillgpt.distributed import ALONE, World
from quillgpt.distributed.shards import divided_like
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

    def step(self, scaler: torch.amp.GradScaler, *, keeping_gradients: bool = False) -> None:
        """Update all parameters and drop the gradients.

        Args:
            scaler: Skips the update if float16 gradients overflowed; does nothing in other formats.
            keeping_gradients: Set the gradients to zero where they are instead.
        """
        for optimizer in self.optimizers:
            scaler.step(optimizer)
            optimizer.zero_grad(set_to_none=not keeping_gradients)
        scaler.update()

    def move_learning_rates_to(self, device: torch.device) -> list[Tensor]:
        """Make the learning rates tensors on a device, where a CUDA graph reads them, and return them."""
        learning_rates = []
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = torch.tensor(float(group["lr"]), device=device)
                group["capturable"] = device.type == "cuda"
                learning_rates.append(group["lr"])
        return learning_rates

    def state(self) -> dict[str, Tensor]:
        """Return the state of all optimizers, tensors by `parameter name/state name`, divided as the parameters are."""
        return {
            f"{self._names[parameter]}/{key}": value
            for optimizer in self.optimizers
            for parameter, entries in optimizer.state.items()
            for key, value in entries.items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Load a state that `state` returned, in whole tensors; before the first step it is empty.

        Raises:
            CheckpointError: The state belongs to another optimizer or model, or is damaged.
        """
        owners = {
            self._names[parameter]: (optimizer, parameter)
            for optimizer in self.optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        expected = state_after_a_step(self._groups, self._settings)
        if state and (unmatched := sorted(state.keys() ^ expected.keys())):
            whose = "the checkpoint's optimizer state has" if unmatched[0] in state else "this optimizer needs"
            raise CheckpointError(
                f"the checkpoint was trained with another optimizer: only {whose} {cut(unmatched[0])}; resume with the "
                "settings of the run itself, --optimizer among them"
            )
        for optimizer in self.optimizers:
            optimizer.state.clear()
        for full_name, value in state.items():
            name, key = full_name.rsplit("/", 1)
            optimizer, parameter = owners[name]
            check_state(full_name, value, expected[full_name])
            optimizer.state[parameter][key] = divided_like(value, parameter)


def state_after_a_step(groups: ParameterGroups, settings: TrainSettings) -> dict[str, Tensor]:
    """Return the state that an optimizer has after its first step, tensors by `parameter name/state name`.

    The step is done on copies of the parameters on the device `meta`, which has no memory and no arithmetic. So the
    tensors have the right shapes and number formats, but no values.
    """
    optimizers = OptimizerSet(groups.without_values(), settings)
    for optimizer in optimizers.optimizers:
        for group in optimizer.param_groups:
            group["fused"] = False  # `meta` has no fused kernels
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    return optimizers.state()


def remembered_values(groups: ParameterGroups, settings: TrainSettings) -> dict[str, int]:
    """Return how many values an optimizer keeps for every parameter, by its name; step counters are left out."""
    values = dict.fromkeys(groups.trained, 0)
    for full_name, value in state_after_a_step(groups, settings).items():
        values[full_name.rsplit("/", 1)[0]] += value.numel() if value.ndim else 0
    return values


def check_state(name: str, value: Tensor, expected: Tensor) -> None:
    """Check that a tensor of a state has the shape and the number format of another one, and is finite.

    The kernels of optimizers do not check it: they would write beyond the end of a tensor that is too short.

    Raises:
        CheckpointError: It has another shape or number format, or a value that is not finite.
    """
    actual, needed = (
        f"{tuple(tensor.shape)} in {str(tensor.dtype).removeprefix('torch.')}" for tensor in (value, expected)
    )
    if actual != needed:
        raise CheckpointError(
            f"the checkpoint's optimizer state is of another model: {name} is {actual}, expected {needed}; start a "
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
        beta2=settings.muon_beta2,
        fused_maps={matrices[name]: rows for name, rows in groups.fused_maps.items()},
        cautious=settings.cautious_weight_decay,
        dtype=orthogonalization_dtype(settings),
        world=groups.world,
        native=groups.native,
    )
    return [of_blocks, _adamw(groups.embeddings, groups.vectors, settings)]


def orthogonalization_dtype(settings: TrainSettings) -> torch.dtype:
    """Return the number format in which Muon orthogonalizes: bfloat16, or float32 if a run on a CPU has chosen that."""
    return torch.float32 if settings.device == "cpu" and settings.dtype == "float32" else torch.bfloat16


OPTIMIZERS: dict[OptimizerName, Callable[[ParameterGroups, TrainSettings], list[torch.optim.Optimizer]]] = {
    "adamw": adamw,
    "muon": muon,
}


def make_optimizers(model: GPT, settings: TrainSettings, world: World = ALONE) -> OptimizerSet:
    """Return the optimizer that the settings name, for all trainable parameters of the model."""
    native = model.is_fused and world.size == 1
    return OptimizerSet(group_parameters(model, world, native=native), settings)


def _adamw(decayed: NamedParameters, vectors: NamedParameters, settings: TrainSettings) -> torch.optim.AdamW:
    groups = [
        {"params": list(parameters.values()), "weight_decay": weight_decay}
        for parameters, weight_decay in ((decayed, settings.weight_decay), (vectors, 0.0))
        if parameters
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(settings.beta1, settings.beta2), fused=True)
