"""Flags in every spelling, parsed by the whole command line."""

from pathlib import Path
from typing import Any

import pytest

from quillgpt.cli.flags import join_switches
from quillgpt.cli.run import take_switches
from quillgpt.config.dataset_names import split_sources
from quillgpt.errors import ConfigError


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--batch_size=7"], "batch_size", 7),
        (["--batch_size", "7"], "batch_size", 7),
        (["--batch-size", "7"], "batch_size", 7),
        (["--batch-size=7"], "batch_size", 7),
        (["--compile=False"], "compile", False),
        (["--compile", "False"], "compile", False),
        (["--no-compile"], "compile", False),
        (["--no_compile"], "compile", False),
        (["--compile"], "compile", True),
        (["--compile=auto"], "compile", "auto"),
        (["--compile", "auto"], "compile", "auto"),
        (["--bias"], "bias", True),
        (["--bias", "True"], "bias", True),
        (["--bias=1"], "bias", True),
        (["--no-bias"], "bias", False),
        (["--always-save-checkpoint"], "always_save_checkpoint", True),
        (["--no-always-save-checkpoint"], "always_save_checkpoint", False),
        (["--no_always_save_checkpoint"], "always_save_checkpoint", False),
        (["--eval_iters", "none"], "eval_iters", None),
        (["--dropout=0"], "dropout", 0.0),
        (["--learning_rate=1e-4"], "learning_rate", 1e-4),
        (["--data", "a.txt", "--data", "b.txt"], "data", "a.txt,b.txt"),
        (["--data=a.txt,b.txt"], "data", "a.txt,b.txt"),
        (["--data", "-"], "data", "-"),
        (["--data", r"C:\books\a.txt"], "data", r"C:\books\a.txt"),
        (["--out_dir", "runs\\first run"], "out_dir", "runs\\first run"),
        (["--resume"], "init_from", "resume"),
        (["--resume", "--init_from=resume"], "init_from", "resume"),
        (["--data", "-"], "dataset", "stdin"),
        (["--seed", "1", "--seed=2"], "seed", 2),
        (["--seed=2", "--seed", "1"], "seed", 1),
        (["--bias", "--no-bias"], "bias", False),
        (["--no-bias", "--bias", "True"], "bias", True),
    ],
)
@pytest.mark.parametrize("before", [True, False])
def test_spellings(quill: Any, words: list[str], name: str, value: object, before: bool) -> None:
    preset = ["shakespeare_char"]
    settings = quill.trained(*preset, *words) if before else quill.trained(*words, *preset)
    assert getattr(settings, name) == value
    assert type(getattr(settings, name)) is type(value)
    assert settings.n_layer == 6


def test_recipe_for_a_laptop_as_nanogpt_spells_it(quill: Any) -> None:
    flags = (
        "--device=cpu --compile=False --eval_iters=20 --log_interval=50 --block_size=64 --batch_size=12 --n_layer=4 "
        "--n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0"
    )
    by_hand = quill.trained("shakespeare-char", *flags.split(), "--out_dir=out-shakespeare-char-cpu", "--seed=1337")
    assert by_hand == quill.trained("shakespeare_char_cpu", "--no-compile")


def test_switch_does_not_swallow_the_preset() -> None:
    assert join_switches(["--overwrite", "demo", "--bias", "False", "x"]) == [
        "--overwrite=true",
        "demo",
        "--bias=False",
        "x",
    ]
    assert join_switches(["--bias"]) == ["--bias=true"]
    assert join_switches(["--notes", "--no-json", "a", "--", "--bias"]) == ["--notes", "--no-json", "a", "--", "--bias"]


def test_train_without_a_name(quill: Any) -> None:
    assert quill.trained().dataset == "openwebtext"
    own = quill.trained("--data", "My Book.txt")
    assert (own.dataset, own.out_dir, own.defaults) == ("my_book", "out-my_book", "scaled")


def test_train_with_files(quill: Any) -> None:
    Path("run.toml").write_text('extends = "demo"\nseed = 3\n')
    Path("run.py").write_text("n_layer = 2\nseed = 4\n")
    assert (quill.trained("run.toml").seed, quill.trained("run.toml").arch) == (3, "qwen3")
    assert quill.trained("run.py", "--seed=5").seed == 5


def test_environment_and_dotenv(quill: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("QUILL_DEVICE=mps\nQUILL_SEED=2\n")
    monkeypatch.setenv("QUILL_SEED", "3")
    settings = quill.trained("demo")
    assert (settings.device, settings.seed) == ("mps", 3)
    monkeypatch.setenv("QUILL_SEDE", "3")
    assert quill.refused("train", "demo") == "QUILL_SEDE in the environment is unknown; did you mean QUILL_SEED?"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("trian", "trian is unknown; did you mean train?"),
        ("frobnicate", "frobnicate is unknown; quill --help lists the commands"),
        ("--learning_rate=3", "--learning_rate is unknown; quill --help lists the commands"),
        ("train --learning_rat=3", "--learning_rat is unknown; did you mean --learning_rate?"),
        ("train --learning-rat 3", "--learning-rat is unknown; did you mean --learning_rate?"),
        ("train --xyzzy", "--xyzzy is unknown; quill train --help lists the flags"),
        ("train --no-flash", "--no-flash is unknown; quill train --help lists the flags"),
        ("train -x", "-x is unknown; quill train --help lists the flags"),
        ("train a b", "b is one word too many; quill train --help shows what it takes"),
        ("train --batch_size", "--batch_size needs a value: --batch_size=..."),
        ("export a b --to", "--to needs a value: --to=hf|gguf|onnx|onnx-with-past|nanogpt|script|html"),
        ("train --n_layer --bias", "--n_layer needs a value: --n_layer=..."),
        ("train --n_layer -3", "--n_layer=-3 must be a whole number above 0"),
        ("train --batch_size=", "--batch_size= must be a whole number above 0"),
        ("train --compile=maybe", "--compile=maybe must be true, false or auto"),
        ("train --n_head 7", "n_embd = 768 is not divisible by n_head = 7; change one of them"),
        ("train gone.toml", "gone.toml does not exist"),
        ("train --resume --init_from=gpt2", "--resume continues a run, --init_from=gpt2 starts one; give one of them"),
        ("eval", "eval needs MODEL; quill eval --help shows what it takes"),
        ("eval out --dataset a --split test", "--split=test must be both, val or train"),
        ("info", "info needs MODEL; quill info --help shows what it takes"),
        ("sample out --top_p 2", "--top_p=2 must be a number above 0 and at most 1 or none"),
        ("sample --n_layer 2", "--n_layer is unknown; quill sample --help lists the flags"),
        ("sample a --out_dir b", "MODEL = a and --out_dir = b are different models; name one"),
        ("prepare a.txt --tokenzier char", "--tokenzier is unknown; did you mean --tokenizer?"),
        ("prepare a.txt --tokenzier=char", "--tokenzier is unknown; did you mean --tokenizer?"),
        (
            "bench attention --heads=99999999999",
            "heads = 99999999999; expected a whole number above 0, at most 10,000,000",
        ),
        ("bench train --rounds x", "--rounds=x must be a whole number"),
        ("configs show", "configs show needs NAME; quill configs show --help shows what it takes"),
        ("configs show shakespear", "shakespear is not a preset, nor a .toml or .py file; did you mean shakespeare?"),
    ],
)
def test_mistakes_are_one_line(quill: Any, words: str, message: str) -> None:
    assert quill.refused(*words.split()) == message


def test_texts_that_stand_where_a_preset_does(quill: Any) -> None:
    for name in ("one.txt", "two.txt"):
        Path(name).write_text("text")
    assert quill.refused("train", "--data", "one.txt", "two.txt") == (
        "two.txt is given where a preset is expected; give several texts as --data one.txt,two.txt or "
        "--data one.txt --data two.txt"
    )
    assert (
        quill.refused("train", "one.txt") == "one.txt is not a preset; to train on a text: quill train --data one.txt"
    )
    assert "two.txt is one word too many; several texts" in quill.refused(
        "train", "demo", "--data", "one.txt", "two.txt"
    )


def test_a_comma_in_a_files_name(quill: Any) -> None:
    Path("tom, dick.txt").write_text("text")
    assert quill.trained("--data", "tom, dick.txt").dataset == "tom_dick"
    both = quill.trained("--data", "tom, dick.txt", "--data", "harry.txt")
    assert split_sources(both.data) == ["tom, dick.txt", "harry.txt"]


def test_switches_of_every_command_are_taken_out_before_the_command_sees_them() -> None:
    words = ["train", "--debug", "a", "--quiet", "--", "--quiet"]
    assert take_switches(words, ("--debug", "--quiet", "--other")) == (
        {"--debug", "--quiet"},
        ["train", "a", "--", "--quiet"],
    )


@pytest.mark.parametrize("flag", ["--start", "--stop", "--data", "--val"])
@pytest.mark.parametrize("word", ["--bias", "--no-bias", "--json", "--unknown=3", "--"])
def test_a_text_is_not_taken_from_what_looks_like_the_next_flag(flag, word):
    with pytest.raises(ConfigError, match=rf"{flag} needs a value; .*, write {flag}={word}"):
        join_switches(["sample", flag, word])
    assert join_switches([f"{flag}={word}"]) == [f"{flag}={word}"]
    for text in ("-- Yes, she said", "- no", "true", "-1", ""):
        assert join_switches([flag, text, "--bias"]) == [flag, text, "--bias=true"]
    assert join_switches([flag]) == [flag]
