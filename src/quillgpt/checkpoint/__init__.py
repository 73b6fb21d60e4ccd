"""Checkpoints: Hugging Face model folders with a training state for resuming."""

from quillgpt.checkpoint.load import LoadedModel, StoredTraining, load_model, load_run, load_training_state
from quillgpt.checkpoint.save import save_checkpoint, save_model
from quillgpt.checkpoint.state import TrainingState

__all__ = [
    "LoadedModel",
    "StoredTraining",
    "TrainingState",
    "load_model",
    "load_run",
    "load_training_state",
    "save_checkpoint",
    "save_model",
]
