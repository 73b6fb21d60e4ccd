"""A person's own text, in other scripts and encodings than English in UTF-8, from the file to a sample."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

import warm

LATIN = (
    "Naïve façade, coöperate: words that English took from others.\n"
    "The café’s crème brûlée was “très bon”, said my fiancée; she’d have had two.\n"
)
JAPANESE = (
    "むかしむかし、あるところに、おじいさんとおばあさんが住んでいました。\n"
    "おじいさんは山へしばかりに、おばあさんは川へせんたくに行きました。大きな桃が流れてきました。\n"
)
GERMAN = (
    "Als der Müller über die Brücke ging, lag Nebel auf den Wiesen. „Heute wird es schön“, sagte er – müde.\n"
    "Die Bäuerin grüßte und fragte, ob er für die große Straße einen Schlüssel bräuchte.\n"
)
SMALL = [
    "--n_layer=1",
    "--n_head=2",
    "--n_embd=64",
    "--block_size=32",
    "--batch_size=16",
    "--learning_rate=1e-2",
    "--warmup_iters=5",
    "--max_iters=60",
    "--lr_decay_iters=60",
    "--eval_interval=60",
    "--eval_iters=2",
    "--device=cpu",
]


@pytest.mark.parametrize(
    ("text", "encoding", "line_end", "tokenizer", "said"),
    [
        (LATIN, "utf-8-sig", "\r\n", "char", None),
        (JAPANESE, "cp932", "\r\n", "bpe:400", "it is read as Shift-JIS (cp932)"),
        (GERMAN, "cp1252", "\n", "byte", "it is read as windows-1252"),
    ],
    ids=["latin", "japanese", "windows-1252"],
)
def test_text_of_any_script_becomes_a_model_that_writes_it(
    tmp_path: Path, text: str, encoding: str, line_end: str, tokenizer: str, said: str | None
) -> None:
    (tmp_path / "own text.txt").write_bytes((text * 60).replace("\n", line_end).encode(encoding))

    def quill(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("QUILL_")}
        environment |= {"QUILL_HOME": os.environ["QUILL_HOME"]}
        done = subprocess.run(
            [warm.quill(), *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done

    trained = quill("train", "--data", "own text.txt", f"--tokenizer={tokenizer}", *SMALL)
    assert (said in trained.stderr) if said else ("is read as" not in trained.stderr)
    manifest = json.loads((tmp_path / "data/own_text/dataset.json").read_text(encoding="utf-8"))
    assert manifest["train"]["characters"] + manifest["val"]["characters"] == len(text * 60)

    prompt = text[:8]
    sampled = quill("sample", "out-own_text", "--start", prompt, "--num_samples=1", "--temperature=0", "--json")
    sample = json.loads(sampled.stdout)
    assert sample["prompt"] == prompt
    assert set(sample["text"]) <= set(text) | {"\ufffd"}  # a young model writes bytes that are no whole character
    assert any(character > "\x7f" for character in sample["text"])
