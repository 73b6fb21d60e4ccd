"""Other candidates get the same text and time, and pay for the same held-out part."""

from __future__ import annotations

import math
import pickle
import random
import shutil
from pathlib import Path

import pytest
import torch

from quillgpt.bench.nanogpt_peer import import_model
from quillgpt.bench.quality import nanogpt_run
from quillgpt.bench.quality.candidates import Budget
from quillgpt.bench.quality.compressors import COMPRESSORS, run_compressor, size_by_ppmd, size_by_xz
from quillgpt.bench.quality.held_out import CODE_POINTS, SplitText
from quillgpt.bench.quality.nanogpt_run import DATA, RECIPE, TOKENS_PER_ITERATION, Speed
from quillgpt.config import resolve
from quillgpt.errors import UserError

LOG = """
step 0: train loss 4.2, val loss 4.2
iter 0: loss 4.2, time 1250.00ms, mfu -100.00%
iter 1: loss 4.1, time 50.00ms, mfu -100.00%
iter 2: loss 4.0, time 40.00ms, mfu 0.10%
iter 3: loss 3.9, time 60.00ms, mfu 0.10%
"""


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_compressor_pays_for_what_it_has_not_seen(name: str) -> None:
    if name == "PPMd":
        pytest.importorskip("pyppmd")
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefgh", k=64)) + "\n" for _ in range(400)]
    text = "".join(words)
    seen = run_compressor(SplitText("text", "", text, "".join(words[100:300])), COMPRESSORS[name])
    new = run_compressor(SplitText("text", "", text, "".join(draw.choices("abcdefgh", k=13_000))), COMPRESSORS[name])
    assert 0 < seen.price.bits / 13_000 < 0.4
    assert 3 <= new.price.bits / 13_000 < 4  # eight letters are three bits


def test_sizes_are_those_of_the_programs() -> None:
    text = "".join(random.Random(1).choices("ab cd", k=100_000)).encode()
    import lzma

    assert size_by_xz(text) == len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
    pyppmd = pytest.importorskip("pyppmd")
    encoder = pyppmd.Ppmd7Encoder(16, 192 << 20)
    packed = encoder.encode(text) + encoder.flush()
    assert size_by_ppmd(text) == len(packed)
    assert pyppmd.Ppmd7Decoder(16, 192 << 20).decode(packed, len(text)) == text


def test_the_length_of_nanogpts_run_follows_from_a_trial() -> None:
    speed = Speed.of(LOG, seconds=5.0)
    assert speed == Speed(start=pytest.approx(3.6), iteration=pytest.approx(0.05), evaluation=pytest.approx(1.2))
    iterations = speed.iterations_in(60)
    assert 3.6 + 1.2 + iterations * 0.05 + iterations / 250 * 1.2 == pytest.approx(60, abs=0.1)
    assert speed.iterations_in(1) == 1
    with pytest.raises(UserError, match="prints no times"):
        Speed.of("Segmentation", seconds=5.0)


def test_nanogpts_recipe_is_that_of_its_readme() -> None:
    ours = resolve("shakespeare_char_cpu", {}, environ={}, dotenv=None)
    same = {name: value for name, value in RECIPE.items() if name not in ("compile", "log_interval")}
    assert {name: type(getattr(ours, name))(value) for name, value in same.items()} == {
        name: getattr(ours, name) for name in same
    }
    assert ours.tokens_per_iteration == TOKENS_PER_ITERATION
    assert "--max_iters=2000" in nanogpt_run.train_flags(2000, interval=250)
    assert "--lr_decay_iters=2000" in nanogpt_run.train_flags(2000, interval=250)
    # 0.8M parameters, six operations each, and attention.
    assert 3.5e9 < nanogpt_run.operations_of_an_iteration(65) < 4.5e9


def test_a_folder_that_is_not_nanogpt_is_named(checkout: Path, tmp_path: Path) -> None:
    split = SplitText("text", "", "train", "held")
    with pytest.raises(UserError, match=r"train\.py does not exist; give the folder of a nanoGPT checkout"):
        nanogpt_run.run_nanogpt(split, Budget(1), checkout, tmp_path, None)


def test_its_checkpoint_is_scored_by_its_own_model(checkout: Path, tmp_path: Path) -> None:
    sizes = {"block_size": 4, "vocab_size": 4, "n_layer": 1, "n_head": 1, "n_embd": 4, "dropout": 0.0, "bias": False}
    module = import_model(checkout)
    model = module.GPT(module.GPTConfig(**sizes))
    folder = tmp_path / "run"
    (folder / DATA).mkdir(parents=True)
    shutil.copyfile(checkout / "model.py", folder / "model.py")
    with pytest.raises(UserError, match="has saved no checkpoint"):
        nanogpt_run.open_checkpoint(folder, 1)
    (folder / nanogpt_run.CHECKPOINT).parent.mkdir()
    torch.save({"model": model.state_dict(), "model_args": sizes}, folder / nanogpt_run.CHECKPOINT)
    table = dict(enumerate("\nabc"))
    (folder / DATA / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": 4, "itos": table}))
    train, held = "abc\n" * 100, "abcaböabcab\n"
    price = nanogpt_run.score_checkpoint(
        nanogpt_run.open_checkpoint(folder, 1), SplitText("text", "", train, held), folder
    )
    ids = ["\nabc".index(character) for character in held if character != "ö"]
    rows = torch.log_softmax(model.table.weight.detach().double(), -1)
    bits = -sum(float(rows[before, after]) for before, after in zip([0, *ids], ids, strict=False)) / math.log(2)
    new = 1 / 402  # no character occurs once
    escape = -len(ids) * math.log2(1 - new) - math.log2(new) + math.log2(CODE_POINTS)
    assert price.unknown_characters == 1
    assert price.bits == pytest.approx(bits + escape, rel=1e-5)
    assert nanogpt_run.count_parameters(model) == 16
