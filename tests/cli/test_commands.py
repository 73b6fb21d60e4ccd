"""The calls and the output of each command, and the messages for errors."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from quillgpt import __version__
from quillgpt.config import TrainSettings, preset_names, resolve
from quillgpt.config.schema import COMMAND_SETTINGS
from quillgpt.errors import CheckpointError, DataError
from quillgpt.evaluation import Score
from quillgpt.proof.outcome import Outcome
from quillgpt.text.formats.opened import Wishes
from tiny import GPT2


def test_prepare(quill: Any) -> None:
    quill.replace("quillgpt.data.prepare", "prepare", DataError("stop here"))
    assert quill("prepare", "a.txt", "-", "--tokenizer", "bpe:500", "--val-fraction=0.2", "--dataset", "both") == 1
    ((sources,), named) = quill.calls[0]
    assert sources == ["a.txt", "-"]
    assert named == {
        "data_dir": Path("data"),
        "dataset": "both",
        "tokenizer": "bpe:500",
        "val": None,
        "val_fraction": 0.2,
        "deduplicate": False,
        "drop_repeated_lines": None,
        "drop_openings": None,
        "drop_endings": None,
        "encoding": None,
        "skip_unreadable": False,
        "follow_links": False,
        "wishes": Wishes(),
        "end_of_text_marks": False,
        "replace": True,
        "overwrite": False,
        "near_duplicates": None,
        "num_proc": None,
    }
    assert quill.err == "quill: stop here\n"


def test_prove(quill: Any) -> None:
    quill.replace("quillgpt.proof.prove", "run_checks", [])
    assert quill("prove", "demo", "--out-dir=sheet", "--keep", "--device=cpu", "--dtype=float32") == 0, quill.err
    (((subject,),), named) = quill.calls[0]
    assert (subject.settings.arch, subject.settings.dtype) == ("qwen3", "float32")
    assert named == {
        "out_dir": Path("sheet"),
        "command": "quill prove demo --out_dir=sheet --device=cpu --dtype=float32 --keep",
        "keep": True,
    }
    quill.replace("quillgpt.proof.prove", "run_checks", [Outcome("SIGTERM", "fail", "status 0", "")])
    assert quill("prove") == 1
    assert quill.err.startswith("quill: 0 pass, 1 fail, 0 not run: SIGTERM; the sheet is in proof")
    assert quill("prove", "no_such_preset") == 2


def test_prepare_for_real(quill: Any) -> None:
    Path("My book.txt").write_text("A line of a text.\n" * 1000)
    assert quill("prepare", "My book.txt") == 0, quill.err
    assert Path("data/my_book/train.bin").stat().st_size == 2 * 16_200
    assert "16,200 tokens" in quill.err
    assert "quill train own_text --dataset=my_book --out_dir=out-my_book" in quill.err
    assert quill("prepare", "My book.txt") == 0
    assert "before, from the same text" in quill.err


@pytest.mark.parametrize(
    ("words", "model"),
    [
        ([], "out"),
        (["run"], "run"),
        (["--out_dir=run"], "run"),
        (["--init_from=gpt2-xl"], "gpt2-xl"),
        (["--init_from=resume", "--out_dir=run"], "run"),
        (["run", "--out_dir=run"], "run"),
    ],
)
def test_sample_names_its_model(quill: Any, words: list[str], model: str) -> None:
    quill.replace("quillgpt.api", "load", CheckpointError("stop here"))
    assert quill("sample", *words, "--start", "-- He said: no", "--threads=2", "--dtype=float32") == 1
    machine = {"device": "auto", "dtype": "float32", "threads": 2, "data_dir": "data", "quantize": "none"}
    assert quill.calls == [((model,), machine)]
    assert quill.err == "quill: stop here\n"


def test_two_models_to_sample_are_refused(quill: Any) -> None:
    assert "are different models; name one" in quill.refused("sample", "run", "--out_dir=other")


def test_eval(quill: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    class Recorder:
        folder = "run"
        config = GPT2

        def open_dataset(self, name: str, *, data_dir: str) -> SimpleNamespace:
            return SimpleNamespace(name=name, train=[0], val=[0])

        def windows(self, tokens: Any, **options: Any) -> None: ...

        def evaluate(self, dataset: SimpleNamespace, **options: Any) -> Score:
            measured.append((dataset.name, options["split"]))
            return Score(loss=1.5, perplexity=4.4817, bits_per_byte=2.16, tokens=1000)

    quill.replace("quillgpt.api", "load", Recorder())
    monkeypatch.setenv("QUILL_DEVICE", "mps")
    assert quill("eval", "run", "--dataset", "a, b", "--split", "train", "--quantize=int8") == 0
    machine = {"device": "mps", "dtype": "auto", "threads": None, "data_dir": "data", "quantize": "int8"}
    assert quill.calls == [(("run",), machine | {"attn_type": None})]
    assert measured == [("a", "train"), ("b", "train")]
    assert quill.out.splitlines()[2].split() == [
        "run",
        "a",
        "train",
        "1.5000",
        "-",
        "-",
        "4.4817",
        "2.1600",
        "1,000",
        "-",
    ]
    assert "run, a train: loss 1.5000 nats per token" in quill.err


def test_info_of_nothing(quill: Any) -> None:
    assert quill("info", "run") == 1
    assert "run does not exist" in quill.err


@pytest.mark.parametrize("command", ["configs", "list-configs"])
def test_configs_lists_each_preset_on_a_line(quill: Any, command: str) -> None:
    assert quill(command) == 0
    assert [line.split()[0] for line in quill.out.splitlines()] == list(preset_names())
    assert all(len(line.split()) > 3 for line in quill.out.splitlines())


def test_configs_show_prints_toml(quill: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUILL_SEED", "3")  # a preset is shown as it is shipped
    assert quill("configs", "show", "shakespeare-char") == 0
    shown = TrainSettings(**tomllib.loads(quill.out))
    assert shown == resolve("shakespeare_char", {}, environ={}, dotenv=None)
    assert quill("configs", "show", "demo", "--comments") == 0
    assert "# Number of transformer blocks.\nn_layer = 4\n" in quill.out


def test_help_explains_every_setting(quill: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    for commands, schema in COMMAND_SETTINGS.items():
        assert quill(*commands.split("quill ")[-1].split(), "--help") == 0
        for name, field in schema.model_fields.items():
            (line,) = [line for line in quill.out.splitlines() if f"│ --{name} " in line]
            assert field.description in line
            assert field.default is None or "default: " in line
    quill("train", "--help")
    assert "--optimizer adamw|muon" in quill.out
    assert "[a whole number above 0; default: 12]" in quill.out
    assert quill.out.index("The model") < quill.out.index("Optimization") < quill.out.index("The machine")


def test_version(quill: Any) -> None:
    assert quill("--version") == 0
    assert quill.out == f"quill {__version__}\n"


def test_user_error_fails_with_one_line(quill: Any) -> None:
    quill.replace("quillgpt.training", "train", DataError("a.txt holds\nno text :warning: [bold]"))
    assert quill("train", "demo") == 1
    assert quill.err == "quill: a.txt holds no text :warning: [bold]\n"


def test_debug_shows_where(quill: Any) -> None:
    quill.replace("quillgpt.training", "train", DataError("no text"))
    assert quill("train", "--debug", "demo") == 1
    assert "Traceback" in quill.err
    assert quill.err.endswith("quill: no text\n")


def test_fault_of_its_own_is_one_line_too(quill: Any) -> None:
    quill.replace("quillgpt.training", "train", KeyError("x"))
    assert quill("train") == 1
    assert quill.err.startswith("quill: KeyError: 'x'; this is a fault of Quill's own")
    assert quill.err.count("\n") == 1


def test_full_disk_is_one_line(quill: Any) -> None:
    quill.replace("quillgpt.training", "train", OSError(28, "No space left on device", "out/model"))
    assert quill("train") == 1
    assert quill.err == "quill: out/model: No space left on device\n"


def test_dry_run_trains_nothing(quill: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = []
    double = ModuleType("quillgpt.training.planning.dry_run")
    double.predict_run = lambda settings: planned.append(settings) or settings  # type: ignore[attr-defined]
    double.show_dry_run = lambda plan, given: print("the plan")  # type: ignore[attr-defined]
    double.check_dry_run = lambda plan: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "quillgpt.training.planning.dry_run", double)
    for words in (["--dry_run"], ["--dry-run"], ["demo", "--dry_run=True"]):
        assert quill("train", *words) == 0, quill.err
        assert (quill.out, quill.calls) == ("the plan\n", [])
    assert [settings.dataset for settings in planned] == ["openwebtext", "openwebtext", "python_docs"]


def test_quiet_is_for_every_command(quill: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("My book.txt").write_text("".join(f"Line {number**3} of a text.\n" for number in range(1000)))
    assert quill("prepare", "My book.txt", "--quiet") == 0
    assert (quill.out, quill.err) == ("", "")
    assert quill("--quiet", "info", "run") == 1
    assert quill.err.startswith("quill: run does not exist")
    assert quill("prepare", "My book.txt") == 0
    assert "before, from the same text" in quill.err
    monkeypatch.setenv("QUILL_QUIET", "1")
    assert quill("prepare", "My book.txt") == 0
    assert quill.err == ""
    assert "demo" in (quill("configs"), quill.out)[1]


def test_debug_shows_where_of_a_mistyped_flag_too(quill: Any) -> None:
    assert quill("train", "--learning_rat=3", "--debug") == 2
    assert "Traceback" in quill.err
    assert quill.err.endswith("quill: --learning_rat is unknown; did you mean --learning_rate?\n")


def test_what_a_model_writes_does_not_end_the_program_in_a_narrow_encoding(tmp_path: Path) -> None:
    (tmp_path / "narrow.toml").write_text('extends = "demo"\nout_dir = "Füße – ☃"\n', encoding="utf-8")
    run = [sys.executable, "-m", "quillgpt", "configs", "show", "narrow.toml"]
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(run, capture_output=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0
    assert 'out_dir = "Füße \\u2013 \\u2603"'.encode("latin-1") in done.stdout


def test_interruption(quill: Any) -> None:
    quill.replace("quillgpt.training", "train", KeyboardInterrupt())
    assert quill("train") == 130
    assert quill.err == "quill: interrupted\n"


def test_dotenv_cannot_say_from_where_files_are_taken(quill: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUILL_HOME", "set")
    monkeypatch.delenv("QUILL_MIRROR", raising=False)
    monkeypatch.setenv("QUILL_QUIET", "")
    monkeypatch.delenv("QUILL_QUIET")
    Path(".env").write_text("QUILL_HOME=elsewhere\nQUILL_MIRROR=mirror\nQUILL_QUIET=1\n")
    assert quill("train") == 0
    assert (os.environ["QUILL_HOME"], os.environ.get("QUILL_MIRROR"), os.environ["QUILL_QUIET"]) == ("set", None, "1")
    assert quill.err.count("\n") == 1
    assert quill.err.startswith("warning: passed over in .env: QUILL_HOME and QUILL_MIRROR; ")


@pytest.mark.parametrize("words", ["--help", "train --help", "configs", "configs show demo"])
def test_answers_without_heavy_imports(words: str, tmp_path: Path) -> None:
    program = (
        "import sys; from quillgpt.cli import main; status = main(sys.argv[1:]); "
        "print([name for name in ('torch', 'numpy', 'transformers') if name in sys.modules], file=sys.stderr); "
        "sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", program, *words.split()], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr.strip()) == (0, "[]")
    assert done.stdout


def test_module_is_the_command(tmp_path: Path) -> None:
    run = [sys.executable, "-m", "quillgpt", "trian"]
    done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "quill: trian is unknown; did you mean train?\n")


@pytest.mark.skipif(os.name == "nt", reason="pipes end otherwise on Windows")
def test_closed_pipe_is_quiet(tmp_path: Path) -> None:
    run = [sys.executable, "-m", "quillgpt", "configs"]
    process = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()  # long before the command is imported and writes
    assert process.wait(timeout=30) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 8.00 GiB for an array"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("Traceback:\n  a line\nnumpy._ArrayMemoryError: Unable to allocate 2.00 TiB for an array"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB\nmore"),
    ],
)
def test_a_full_memory_is_no_fault(quill: Any, error: BaseException) -> None:
    quill.replace("quillgpt.training", "train", error)
    assert quill("train") == 1
    assert quill.err.startswith("quill: there is not enough memory; smaller sizes need less (")
    assert quill.err.count("\n") == 1
