"""A script in numpy that anyone can read: the model's files, and two short programs that read and run them.

The programs are in numpy_script/, one model.py for each architecture; they know nothing of Quill.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quillgpt.checkpoint import LoadedModel, save_model
from quillgpt.export.byte_level import byte_level
from quillgpt.export.probe import Runtime
from quillgpt.files import write_text
from quillgpt.generation import prompt_ids

PROGRAMS = Path(__file__).parent / "numpy_script"

ANSWERS = """
import base64, importlib.abc, json, platform, sys
from pathlib import Path

class OnlyNumpy(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {*sys.stdlib_module_names, "numpy", "model", "sample"}:
            raise ModuleNotFoundError(f"{name} is neither numpy nor a part of Python", name=name)

sys.meta_path.insert(0, OnlyNumpy())
sys.path.insert(0, sys.argv[1])
import numpy, sample
model, tokenizer, start = sample.open_folder(Path(sys.argv[1]))

def begin():
    return {"versions": f"Python {platform.python_version()}, numpy {numpy.__version__}", "end": tokenizer.end}

def decode(ids):
    return b"".join(tokenizer.tokens[id] for id in ids).decode("utf-8", "replace")

def logits(ids):
    model.forget()
    half = max(1, len(ids) // 2)
    rows = numpy.concatenate([model.read(ids[:half]), *(model.read([id]) for id in ids[half:])])
    rows = rows[:, : len(tokenizer.tokens)].astype("<f4")
    return {"shape": rows.shape, "numbers": base64.b64encode(rows.tobytes()).decode()}

def generate(ids, count):
    greedy = sample.Namespace(**sample.SETTINGS | {"max_new_tokens": count, "temperature": 0.0})
    return list(sample.continued(model, tokenizer, ids, greedy, 0))

answers = {"begin": begin, "encode": tokenizer.encode, "decode": decode, "logits": logits, "generate": generate}
for line in sys.stdin:
    question, *given = json.loads(line)
    print(json.dumps(answers[question](*given)), flush=True)
"""
"""The program that answers our questions by what is in the folder of its argument, and can import only numpy."""


def check_representable(loaded: LoadedModel) -> None:
    """Check that the script can read the model's tokenizer.

    Raises:
        CheckpointError: It cannot.
    """
    byte_level(loaded.tokenizer)


def write(loaded: LoadedModel, folder: Path, _number_type: str) -> None:
    """Write sample.py, model.py, and the files of a Hugging Face folder, whose config.json says how texts start."""
    _, start = prompt_ids(loaded.tokenizer, None, starts_with_end_of_text=loaded.starts_with_end_of_text)
    save_model(folder, loaded.model, loaded.tokenizer, about=loaded.about | {"start": start})
    for name, program in (("sample.py", "sample.py"), ("model.py", f"{loaded.config.arch}.py")):
        write_text(folder / name, (PROGRAMS / program).read_text(encoding="utf-8"))


class NumpyScript(Runtime):
    """The script in a process that can import nothing but numpy."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-B", "-X", "utf8", "-c", ANSWERS, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        weakref.finalize(self, self._process.communicate)
        begun = self._ask("begin")
        self.name, self.end_of_text = begun["versions"], begun["end"]

    def _ask(self, question: str, *given: Any) -> Any:
        """Return the answer to a question.

        Raises:
            RuntimeError: The script has failed.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps([question, *given]) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())
        except (OSError, ValueError):
            _, said = self._process.communicate()
            raise RuntimeError(f"{question}: {said.strip().rpartition(chr(10))[2]}") from None

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        return list(self._ask("encode", text))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some ids."""
        return str(self._ask("decode", list(ids)))

    def logits(self, ids: Sequence[int]) -> Tensor:
        """Return the logits of every position, (T, V): the first half of the ids at once, the others one by one."""
        answer = self._ask("logits", list(ids))
        numbers = np.frombuffer(base64.b64decode(answer["numbers"]), "<f4")
        return torch.from_numpy(numbers.reshape(answer["shape"]).copy())

    def generate(self, ids: Sequence[int], count: int) -> list[int]:
        """Return the greedy continuation."""
        return list(self._ask("generate", list(ids), count))
