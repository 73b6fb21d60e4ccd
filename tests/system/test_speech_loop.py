"""Recordings become text, the text a model, the model's samples speech, and that speech is understood again.

Everything is real and offline: espeak-ng speaks, pocketsphinx listens, and each command runs as a user types it.
"""

from __future__ import annotations

import json
import os
import subprocess
import wave
from pathlib import Path

import numpy as np
import pytest

import warm
from speech.spoken import overlap, speak_to

ANNOUNCEMENT = "the people of the united states. "
SAID = (
    "he walked down the road to the house.",
    "they waited for the people inside.",
    "they met the president in the beginning of the year.",
    "the house was on the other side of the road.",
    "they walked to the house with the president.",
)
UNDERSTOOD = 0.6
"""The least F1 score of words; pocketsphinx understands about 0.75 of these. espeak speaks nothing twice alike."""

UNDERSTOOD_ANNOUNCEMENTS = 3
"""Of the five recordings, so many must have their announcement as the others have it."""

UNDERSTOOD_AGAIN = 0.5
"""The same for what the model writes, which may end within a word."""

TINY = ["--n_layer=2", "--n_head=2", "--n_embd=64", "--block_size=24", "--batch_size=16", "--dropout=0", "--device=cpu"]
SHORT = ["--minutes=none", "--learning_rate=3e-3", "--eval_interval=50", "--eval_iters=1", "--compile=False"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which five recordings were transcribed, and a model was trained on what was heard."""
    folder = tmp_path_factory.mktemp("loop")
    (folder / "recordings").mkdir()
    for number, sentence in enumerate(SAID):
        speak_to(folder / "recordings" / f"part {number}.wav", ANNOUNCEMENT + sentence, 140)
    said = quill(folder, "transcribe", "recordings", "--out", "lectures", "--engine=pocketsphinx")
    assert "quill prepare lectures --drop_openings=3" in said
    # So little text is to be remembered word by word, so it is also what the model is judged by.
    said = quill(folder, "prepare", "lectures", "--drop_openings=3", "--tokenizer=char", "--val=lectures")
    quill(folder, "train", "train_speech", "--dataset=lectures", "--out_dir=out", "--max_iters=150", *TINY, *SHORT)
    return folder


def quill(folder: Path, *words: str) -> str:
    """Run a command, which must succeed, and return its results and its messages, on one line."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("QUILL_")}
    environment |= {"QUILL_HOME": os.environ["QUILL_HOME"], "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [warm.quill(), *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return " ".join((done.stdout + done.stderr).split())


def test_what_was_spoken_is_transcribed(folder: Path) -> None:
    heard = [(folder / "lectures" / f"part {number}.txt").read_text(encoding="utf-8") for number in range(len(SAID))]
    assert overlap(" ".join(ANNOUNCEMENT + sentence for sentence in SAID), " ".join(heard)) > UNDERSTOOD


def test_the_data_set_has_the_transcripts_without_their_announcement_and_nothing_else(folder: Path) -> None:
    manifest = json.loads((folder / "data" / "lectures" / "dataset.json").read_text())
    assert [Path(source["location"]).name for source in manifest["sources"]] == [
        f"part {number}.txt" for number in range(len(SAID))
    ]
    whole = sum(len(path.read_text().strip()) for path in (folder / "lectures").glob("*.txt"))
    shortened = manifest["report"]["dropped_openings"] // 2  # both splits are the same
    assert shortened >= UNDERSTOOD_ANNOUNCEMENTS
    assert whole - manifest["train"]["characters"] == pytest.approx(shortened * len(ANNOUNCEMENT), abs=4 * len(SAID))


def test_what_the_model_writes_is_spoken_and_understood(folder: Path) -> None:
    sampling = ["--start=they ", "--num_samples=1", "--max_new_tokens=46", "--temperature=0.1", "--device=cpu"]
    written = quill(folder, "--quiet", "sample", "out", *sampling).removesuffix("---------------")
    assert len(set(written.split()) & set(" ".join(SAID).split())) >= 3, "the model has learned the words"
    assert "people of the united" not in written, "but not the announcement"
    quill(folder, "speak", "out", "--out", "said.wav", "--voice=en-us+f5", "--rate=140", *sampling)
    with wave.open(str(folder / "said.wav")) as file:
        rate = file.getframerate()
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    words_per_minute = 60 * len(written.split()) / (len(samples) / rate)
    assert 60 < words_per_minute < 300
    assert 0.02 < np.sqrt(np.mean(np.square(samples))) < 0.3, "as loud as speech"
    assert 0.1 < np.abs(samples).max() <= 1
    quill(folder, "transcribe", "said.wav", "--out", "heard", "--engine=pocketsphinx", "--keep_doubtful")
    heard = (folder / "heard" / "said.txt").read_text(encoding="utf-8")
    assert overlap(written, heard) > UNDERSTOOD_AGAIN, f"{written!r} was heard as {heard!r}"


def test_a_model_is_finetuned_on_the_transcripts(folder: Path) -> None:
    words = ["--data=lectures", "--init_from=out", "--out_dir=tuned", "--max_iters=2", "--device=cpu"]
    own = ["--val=lectures", "--dataset=again", "--block_size=24"]
    said = quill(folder, "train", "finetune_speech", *words, *own)
    assert "documents begin with 'the people of the united states'; --drop_openings=3" in said
    assert (folder / "tuned" / "checkpoints" / "best").exists()
