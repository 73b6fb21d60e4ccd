"""The models to prove are those of the preset, in short runs that need nothing from outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from quillgpt.config import resolve
from quillgpt.proof.proved_model import TEXT, proved_models, write_texts

CPU = {"device": "cpu", "dtype": "float32"}


def test_without_a_preset_both_architectures_and_optimizers_are_proved() -> None:
    kinds = {(proved.settings.arch, proved.settings.optimizer) for proved in proved_models(None, CPU)}
    assert kinds == {("gpt2", "adamw"), ("qwen3", "muon")}


@pytest.mark.parametrize("preset", ["shakespeare_char", "demo", "finetune_mybook"])
def test_a_presets_model_is_proved_in_a_short_run(preset: str) -> None:
    (proved,) = proved_models(preset, CPU)
    asked = resolve(preset, {})
    for name in ("arch", "n_layer", "n_head", "n_embd", "block_size", "dropout", "optimizer", "learning_rate", "bias"):
        assert getattr(proved.settings, name) == getattr(asked, name), name
    assert proved.settings.init_from == "scratch"
    assert proved.settings.max_iters < 100
    assert not proved.settings.wandb_log


def test_every_choice_is_made_before_the_first_run(tmp_path: Path) -> None:
    for proved in proved_models(None, CPU):
        written = resolve(str(proved.write(tmp_path)), {}, environ={}, dotenv=None)
        assert written.model_dump() == proved.settings.model_dump()
        chosen = [getattr(written, name) for name in ("attn_path", "compile", "threads", "micro_batch_size")]
        assert not {"auto", None} & set(chosen)


def test_the_texts_have_room_for_a_long_context(tmp_path: Path) -> None:
    write_texts(tmp_path, 4096)
    text = (tmp_path / TEXT).read_text()
    assert len(text) // 10 > 4096  # what is held out
    assert len(list((tmp_path / "documents").iterdir())) >= 100
