"""training/state.json: what resuming needs besides the weights and the optimizer."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from quillgpt.config.runs import STATE as STATE
from quillgpt.config.schema import TrainFields
from quillgpt.records import Record

LONGEST_SECONDS = 1e10
"""Three hundred years."""

Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Seconds = Annotated[float, Field(ge=0, le=LONGEST_SECONDS)]
Loss = Annotated[float, Field(allow_inf_nan=True)]


class StoredSettings(TrainFields):
    """The settings of a run; the version that wrote them may know other settings than this one."""

    model_config = ConfigDict(extra="allow")


class Rollback(Record):
    """A rollback to an earlier state; a resumed run needs nothing but these records to repeat it.

    Attributes:
        iteration: The iteration that was not finite; it is skipped from then on.
        back_to: The iteration whose state was restored.
        reason: What was not finite, and where.
        windows: Offsets of the windows of its batch in the training split.
    """

    iteration: Count
    back_to: Count
    reason: str
    windows: list[Count]


class AdapterBase(Record):
    """The base model of adapters."""

    folder: str
    sha256: str


class StartingLosses(Record):
    """The losses of the first evaluation, if a data set is replayed."""

    val: Loss
    replay: Loss


class ScalerState(Record):
    """The state of float16's gradient scaler, by PyTorch's names."""

    scale: Annotated[float, Field(gt=0)]
    growth_factor: Annotated[float, Field(gt=1)]
    backoff_factor: Annotated[float, Field(gt=0, lt=1)]
    growth_interval: Count
    growth_tracker: Count = Field(alias="_growth_tracker")


def _like(schema: type[BaseModel]) -> AfterValidator:
    """Check that an object is empty or fits a record, and keep it as it is."""

    def check(content: dict[str, Any]) -> dict[str, Any]:
        if content:
            schema.model_validate(content)
        return content

    return AfterValidator(check)


class TrainingState(Record):
    """What resuming needs besides weights and optimizer; data order and dropout follow from seed and iteration.

    Attributes:
        iteration: Number of optimizer steps done.
        tokens: Number of target tokens trained on.
        seconds: Time since the start of training with evaluations, without pauses between sessions.
        start_seconds: Time that its sessions took before their loops, from their commands on; it counts as minutes.
        train_seconds: Time in training steps alone.
        start_val_loss: The validation loss before the first step; None if it was not measured.
        best_val_loss: The lowest validation loss so far, nats per token; None before the first evaluation. The loss
            before the first step counts for a finetuned model, but not for random weights.
        best_iteration: The iteration of the lowest validation loss.
        best_train_loss: The training loss of the same evaluation.
        evaluations_since_best: Evaluations since then, or since one was better than the start.
        overfitting_said: Whether the user has been told since then that the model overfits.
        evaluated_iteration: The iteration of the last evaluation, which a resumed run does not repeat.
        rollbacks: The rollbacks so far.
        overflows: Number of iterations that float16's gradient scaler skipped.
        saving_seconds: Time spent on saving checkpoints.
        compiled_from: The iteration from which on the run is compiled; None if it is not, or was before this was noted.
            `settings` say whether it is: `auto` while that is open.
        settings: The run's settings with all automatic choices made.
        data_fingerprint: Fingerprint of the data set.
        replay_fingerprint: Fingerprint of the replayed data set, if any.
        losses_at_start: The losses of the first evaluation, if a data set is replayed.
        base: The base model, if adapters are trained.
        teachers: Hashes of the weights of the models that teach it, by the names that the settings have for them.
        taught: Whether the teachers that the run has trained teach the present model.
        scaler: State of float16's gradient scaler; empty for other formats.
        dropout_by_sequence: Whether dropout is a function of a sequence's place in the global batch. Runs that began
            before it was draw all of an iteration's dropout from PyTorch's generator.
        loss_in_parts: Whether the loss is computed in parts where there are many logits. Runs that began before it was
            compute all of a micro-batch at once.
        fused_rest: Whether, where blocks are computed as one step each, so are embedding, loss and Muon's updates. Runs
            that began before they were go on without.
    """

    model_config = ConfigDict(frozen=False)

    iteration: Count = 0
    tokens: Count = 0
    seconds: Seconds = 0.0
    start_seconds: Seconds = 0.0
    train_seconds: Seconds = 0.0
    start_val_loss: float | None = None
    best_val_loss: float | None = None
    best_iteration: Count | None = None
    best_train_loss: Loss | None = None
    evaluations_since_best: Count = 0
    overfitting_said: bool = False
    evaluated_iteration: Count | None = None
    rollbacks: list[Rollback] = Field(default_factory=list)
    overflows: Count = 0
    saving_seconds: Seconds = 0.0
    compiled_from: Count | None = None
    settings: Annotated[dict[str, Any], _like(StoredSettings)] = Field(default_factory=dict)
    data_fingerprint: str = ""
    replay_fingerprint: str = ""
    losses_at_start: Annotated[dict[str, Loss], _like(StartingLosses)] = Field(default_factory=dict)
    base: Annotated[dict[str, str], _like(AdapterBase)] = Field(default_factory=dict)
    teachers: dict[str, str] = Field(default_factory=dict)
    taught: bool = False
    scaler: Annotated[dict[str, Any], _like(ScalerState)] = Field(default_factory=dict)
    dropout_by_sequence: bool = False
    loss_in_parts: bool = False
    fused_rest: bool = False
