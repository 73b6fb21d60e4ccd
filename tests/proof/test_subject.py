"""What is proved is what was asked for, in short runs that depend on nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from quillgpt.config import resolve
from quillgpt.proof.subject import TEXT, find_subjects, write_texts

CPU = {"device": "cpu", "dtype": "float32"}


def test_without_a_preset_both_architectures_and_optimizers_are_proved() -> None:
    kinds = {(subject.settings.arch, subject.settings.optimizer) for subject in find_subjects(None, CPU)}
    assert kinds == {("gpt2", "adamw"), ("qwen3", "muon")}


@pytest.mark.parametrize("preset", ["shakespeare_char", "demo", "finetune_mybook"])
def test_a_presets_model_is_proved_in_a_short_run(preset: str) -> None:
    (subject,) = find_subjects(preset, CPU)
    asked = resolve(preset, {})
    for name in ("arch", "n_layer", "n_head", "n_embd", "block_size", "dropout", "optimizer", "learning_rate", "bias"):
        assert getattr(subject.settings, name) == getattr(asked, name), name
    assert subject.settings.init_from == "scratch"
    assert subject.settings.max_iters < 100
    assert not subject.settings.wandb_log


def test_every_choice_is_made_before_the_first_run(tmp_path: Path) -> None:
    for subject in find_subjects(None, CPU):
        written = resolve(str(subject.write(tmp_path)), {}, environ={}, dotenv=None)
        assert written == subject.settings
        chosen = [getattr(written, name) for name in ("attn_path", "compile", "threads", "micro_batch_size")]
        assert not {"auto", None} & set(chosen)


def test_the_texts_have_room_for_a_long_context(tmp_path: Path) -> None:
    write_texts(tmp_path, 4096)
    text = (tmp_path / TEXT).read_text()
    assert len(text) // 10 > 4096  # what is held out
    assert len(list((tmp_path / "documents").iterdir())) >= 100
