"""Suggestions for mistyped names, if they are likely."""

import pytest

from quillgpt.config.schema import TrainFields
from quillgpt.errors import closest, did_you_mean

SLIPS = {
    "learning_rat": "learning_rate",
    "learing_rate": "learning_rate",
    "dropuot": "dropout",
    "n_heads": "n_head",
    "N_EMBED": "n_embd",
    "batchsize": "batch_size",
    "sede": "seed",
    "max-iter": "max_iters",
    "weight_deacy": "weight_decay",
    "gradient_acumulation_step": "gradient_accumulation_steps",
}
OTHERS = (
    *("algo_reason", "n_moe", "n_expert", "rope", "wandb_group", "gpu_id", "ckpt_path", "top_x", "d_model", "sigma"),
    *("router_z_loss", "use_swiglu", "rank", "x", "", "flash", "init_std", "num_workers", "master_process"),
)


@pytest.mark.parametrize("typed", SLIPS)
def test_a_misspelled_name_is_recognised(typed: str) -> None:
    assert closest(typed, TrainFields.model_fields) == SLIPS[typed]


@pytest.mark.parametrize("name", OTHERS)
def test_another_word_is_no_misspelling(name: str) -> None:
    assert did_you_mean(name, TrainFields.model_fields) == ""
