"""Tests that are not marked `download` stay on this machine; `offline/sitecustomize.py` sees to it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from quillgpt.text.tokenizers.gpt2 import gpt2_tokenizer

ELSEWHERE = "192.0.2.1"  # of the block that is for documentation, and nobody's
LOOK = f"import socket; socket.create_connection(('{ELSEWHERE}', 80), timeout=0.01)"


def test_this_process_cannot_reach_another_machine() -> None:
    with pytest.raises(pytest.fail.Exception, match=f"tries to reach {ELSEWHERE}, and is not marked `download`"):
        socket.create_connection((ELSEWHERE, 80), timeout=0.01)


def test_a_process_that_a_test_starts_cannot_either() -> None:
    done = subprocess.run([sys.executable, "-c", f"try: {LOOK}\nexcept: pass"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        97,
        f"this test tries to reach {ELSEWHERE}, and is not marked `download`\n",
    )


def test_published_files_are_out_of_reach_whether_or_not_others_have_fetched_them() -> None:
    assert "QUILL_MIRROR" not in os.environ
    with pytest.raises(pytest.fail.Exception, match="tries to reach openaipublic"):
        gpt2_tokenizer()


@pytest.mark.download
def test_a_test_that_may_fetch_has_them_or_is_skipped(gpt2_files: None) -> None:
    assert gpt2_tokenizer().vocab_size == 50257
    assert Path(os.environ["QUILL_HOME"], "downloads").is_dir()
