"""Checkpoints: Hugging Face model folders plus what resuming needs."""

from quillgpt.checkpoint.load import LoadedModel, StoredTraining, load_model, load_training_state
from quillgpt.checkpoint.save import TrainingState, save_checkpoint, save_model

__all__ = [
    "LoadedModel",
    "StoredTraining",
    "TrainingState",
    "load_model",
    "load_training_state",
    "save_checkpoint",
    "save_model",
]
