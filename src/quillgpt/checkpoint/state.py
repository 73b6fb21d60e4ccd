"""training/state.json: what resuming needs besides weights and optimizer."""

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
    """The settings of a run by the version that wrote them, which may know others than this one."""

    model_config = ConfigDict(extra="allow")


class Rollback(Record):
    """One return to an earlier state; what a run does after it is a function of these records.

    Attributes:
        iteration: The iteration that was not finite; it is left out from then on.
        back_to: The iteration whose state was restored.
        reason: What was not finite, and where.
        windows: Starts of the windows concerned, in the training split.
    """

    iteration: Count
    back_to: Count
    reason: str
    windows: list[Count]


class Base(Record):
    """The model that adapters belong to, where these are what is trained."""

    folder: str
    sha256: str


class StartingLosses(Record):
    """What the first evaluation found, where a data set is replayed."""

    val: Loss
    replay: Loss


class Scaler(Record):
    """What float16's gradient scaler remembers, by its own names."""

    scale: Annotated[float, Field(gt=0)]
    growth_factor: Annotated[float, Field(gt=1)]
    backoff_factor: Annotated[float, Field(gt=0, lt=1)]
    growth_interval: Count
    growth_tracker: Count = Field(alias="_growth_tracker")


def _like(schema: type[BaseModel]) -> AfterValidator:
    """Let an object stay as it is, after checking that it says what a record says, or nothing at all."""

    def check(content: dict[str, Any]) -> dict[str, Any]:
        if content:
            schema.model_validate(content)
        return content

    return AfterValidator(check)


class TrainingState(Record):
    """What resuming needs besides weights and optimizer; data order and dropout follow from seed and iteration.

    Attributes:
        iteration: Optimizer steps done.
        tokens: Target tokens seen.
        seconds: Time since the start of training, evaluations included, pauses between sessions left out.
        train_seconds: Time in training steps alone.
        start_val_loss: The validation loss before the first step; None where it was not measured.
        best_val_loss: Lowest validation loss so far, nats per token; None before the first. A finetuned model's start
            is among them; fresh weights are no result, so theirs is not.
        best_iteration: Where it was measured.
        best_train_loss: The training loss of the same evaluation.
        evaluations_since_best: Evaluations since then, or since one was better than the start.
        overfitting_said: Whether it has been said since then that the model overfits.
        evaluated_iteration: Where the last evaluation was, so that a resumed run does not repeat it.
        rollbacks: What was found not finite, and where the run went back to.
        overflows: Iterations that float16's gradient scaler left out.
        saving_seconds: Time in saves.
        settings: The run's settings, automatic choices filled in.
        data_fingerprint: Identity of the data set.
        replay_fingerprint: Identity of the data set that is replayed, if any.
        losses_at_start: What the first evaluation found, where a data set is replayed.
        base: The model that adapters belong to, where these are what is trained.
        scaler: State of float16's gradient scaler, empty for other formats.
    """

    model_config = ConfigDict(frozen=False)

    iteration: Count = 0
    tokens: Count = 0
    seconds: Seconds = 0.0
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
    settings: Annotated[dict[str, Any], _like(StoredSettings)] = Field(default_factory=dict)
    data_fingerprint: str = ""
    replay_fingerprint: str = ""
    losses_at_start: Annotated[dict[str, Loss], _like(StartingLosses)] = Field(default_factory=dict)
    base: Annotated[dict[str, str], _like(Base)] = Field(default_factory=dict)
    scaler: Annotated[dict[str, Any], _like(Scaler)] = Field(default_factory=dict)
