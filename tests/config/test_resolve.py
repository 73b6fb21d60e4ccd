"""The places that set settings: which wins, how text is parsed, and what errors say."""

import os
from pathlib import Path

import pytest

from quillgpt.config import EvalSettings, PrepareSettings, SampleSettings, TrainSettings, resolve, resolve_flat
from quillgpt.config.dataset_names import name_of_sources
from quillgpt.config.layers import read_dotenv
from quillgpt.errors import ConfigError


def with_flags(**flags: object) -> TrainSettings:
    return resolve("shakespeare_char", flags, environ={}, dotenv=None)


def message_of(source: str | None = None, flags: dict[str, object] | None = None, **places: object) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(source, flags or {}, **{"environ": {}, "dotenv": None} | places)
    return str(caught.value)


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_later_places_win(tmp_path: Path) -> None:
    write(tmp_path / "base.toml", 'extends = "shakespeare_char"\nn_layer = 1\nn_head = 1\nseed = 1\nthreads = 1\n')
    run = write(tmp_path / "run.toml", 'extends = "base.toml"\nn_head = 2\nseed = 2\nthreads = 2\nlog_interval = 2\n')
    write(tmp_path / ".env", "QUILL_SEED=3\nQUILL_THREADS=3\nQUILL_LOG_INTERVAL=3\n")
    environ = {"QUILL_THREADS": "4", "QUILL_LOG_INTERVAL": "4"}
    settings = resolve(run, {"log_interval": "5"}, environ=environ, dotenv=tmp_path / ".env")
    assert settings.weight_decay == 0.1  # the schema's
    assert settings.batch_size == 64  # the preset's
    assert settings.n_layer == 1  # the extended file's
    assert settings.n_head == 2  # the file's
    assert settings.seed == 3  # .env's
    assert settings.threads == 4  # the environment's
    assert settings.log_interval == 5  # the flag's


def test_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUILL_N_LAYER", "3")
    assert resolve("shakespeare_char", {}, dotenv=None).n_layer == 3


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("compile", "False", False),
        ("compile", "true", True),
        ("compile", "1", True),
        ("compile", "auto", "auto"),
        ("bias", "no", False),
        ("eval_iters", "none", None),
        ("eval_iters", "None", None),
        ("max_iters", "5_000", 5000),
        ("learning_rate", "1e-3", 0.001),
        ("dropout", "0", 0.0),
        ("dataset", "none", "none"),
        ("out_dir", "1", "1"),
    ],
)
def test_text_is_parsed_by_the_type_of_the_setting(name: str, text: str, value: object) -> None:
    read = getattr(with_flags(**{name: text}), name)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("n_layer", "-3", "a whole number above 0"),
        ("n_layer", "two", "a whole number above 0"),
        ("n_layer", "none", "a whole number above 0"),
        ("eval_iters", "0", "a whole number above 0 or none"),
        ("warmup_iters", "-1", "a whole number of at least 0"),
        ("learning_rate", "fast", "a number of at least 0"),
        ("learning_rate", "inf", "a number of at least 0"),
        ("learning_rate", "nan", "a number of at least 0"),
        ("dropout", "1", "a number of at least 0 and below 1"),
        ("decay_fraction", "2", "a number above 0 and at most 1"),
        ("optimizer", "adam", "adamw or muon"),
        ("compile", "maybe", "true, false or auto"),
        ("bias", "2", "true or false"),
    ],
)
def test_a_wrong_value_is_answered_with_what_is_expected(name: str, text: str, expected: str) -> None:
    assert message_of(flags={name: text}) == f"--{name}={text} must be {expected}"


def test_a_wrong_value_names_the_place_that_set_it(tmp_path: Path) -> None:
    toml = write(tmp_path / "run.toml", "bias = 0\n")
    write(tmp_path / ".env", "QUILL_SEED=x\n")
    assert message_of(toml) == f"bias = 0 in {toml} must be true or false"
    assert message_of(environ={"QUILL_SEED": "x"}).startswith("QUILL_SEED=x in the environment must be a whole number")
    assert message_of(dotenv=tmp_path / ".env").startswith(f"QUILL_SEED=x in {tmp_path}/.env must be")


def test_unknown_name_says_where_and_what_was_meant(tmp_path: Path) -> None:
    toml = write(tmp_path / "run.toml", "learning_rat = 1\n")
    write(tmp_path / ".env", "QUILL_LEARNING_RAT=1\n")
    assert message_of(toml) == f"learning_rat in {toml} is unknown; did you mean learning_rate?"
    assert message_of(flags={"learning-rat": "1"}) == "--learning_rat is unknown; did you mean --learning_rate?"
    meant = "is unknown; did you mean QUILL_LEARNING_RATE?"
    assert message_of(environ={"QUILL_LEARNING_RAT": "1"}) == f"QUILL_LEARNING_RAT in the environment {meant}"
    assert message_of(dotenv=tmp_path / ".env") == f"QUILL_LEARNING_RAT in {tmp_path}/.env {meant}"
    assert message_of(environ={"QUILL_XYZZY": "1"}) == "QUILL_XYZZY in the environment is unknown"


def test_contradictions_name_both_values() -> None:
    assert message_of(flags={"n_head": "7"}) == "n_embd = 768 is not divisible by n_head = 7; change one of them"
    text = message_of(flags={"arch": "qwen3", "n_head": "6", "n_kv_head": "4"})
    assert "n_head = 6" in text
    assert "n_kv_head = 4" in text
    assert "it needs optimizer = muon" in message_of(flags={"cautious_weight_decay": "true"})


def test_places_and_other_commands_settings_are_known(tmp_path: Path) -> None:
    environ = {"QUILL_HOME": "x", "QUILL_MIRROR": "y", "QUILL_TOP_K": "5", "QUILL_SPLIT": "train", "HOME": "z"}
    assert resolve("demo", {}, environ=environ, dotenv=None) == resolve("demo", {}, environ={}, dotenv=None)
    assert resolve_flat(SampleSettings, {}, environ=environ, dotenv=None).top_k == 5
    assert resolve_flat(EvalSettings, {}, environ=environ, dotenv=None).split == "train"


def test_empty_variable_sets_nothing() -> None:
    assert resolve("demo", {}, environ={"QUILL_SEED": ""}, dotenv=None).seed == 1337


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_dotenv_in_the_encodings_that_shells_write(tmp_path: Path, encoding: str) -> None:
    (tmp_path / ".env").write_bytes("QUILL_SEED=3\r\n# é漢\r\nQUILL_THREADS=2\r\n".encode(encoding))
    assert read_dotenv(tmp_path / ".env") == {"QUILL_SEED": "3", "QUILL_THREADS": "2"}


@pytest.mark.skipif(os.name == "nt", reason="has no named pipes in folders")
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "loop", "nothing"])
def test_a_dotenv_that_is_no_file_sets_nothing_and_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ".env"
    makers = {"pipe": os.mkfifo, "folder": os.mkdir, "nothing": lambda _: None}
    makers |= {"device": lambda _: path.symlink_to("/dev/zero"), "loop": lambda _: path.symlink_to(path)}
    makers[kind](path)
    assert read_dotenv(path) == {}


def test_dotenv_lines(tmp_path: Path) -> None:
    lines = [
        "DATABASE_URL=secret # not ours",
        "this is no assignment",
        "# QUILL_SEED=9",
        "export QUILL_DEVICE = mps # the laptop",
        'QUILL_OUT_DIR="out #1"',
        "QUILL_DATASET='my set'",
        "QUILL_DATA_DIR=a#b #c",
    ]
    write(tmp_path / ".env", "\n".join(lines))
    settings = resolve("demo", {}, environ={}, dotenv=tmp_path / ".env")
    assert (settings.device, settings.out_dir, settings.dataset) == ("mps", "out #1", "my set")
    assert (settings.data_dir, settings.seed) == ("a#b", 1337)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("QUILL_OUT_DIR = out # the run", "out"),
        ("\texport QUILL_OUT_DIR='a # b' # c", "a # b"),
        ("QUILL_OUT_DIR=", ""),
        ("QUILL_OUT_DIR=# nothing", ""),
        ("QUILL_OUT_DIR= # nothing", ""),
        ("QUILL_OUT_DIR='#1'", "#1"),
        ("QUILL_OUT_DIR=a=b", "a=b"),
        ("QUILL_OUT_DIR=it's", "it's"),
        ("QUILL_OUT_DIR=${HOME}/$x", "${HOME}/$x"),
        (r"QUILL_OUT_DIR=C:\new\books", r"C:\new\books"),
        (r'QUILL_OUT_DIR="C:\new\books"', r"C:\new\books"),
        (r"QUILL_OUT_DIR='\\server\books\'", "\\\\server\\books\\"),
        ("QUILL_OUT_DIR=one\nQUILL_OUT_DIR=two", "two"),
        ("KEY=''x\nodd\nQUILL_OUT_DIR=a", "a"),
        ('KEY="-----BEGIN\nQUILL_OUT_DIR=no\n-----END"\nQUILL_OUT_DIR=a', "a"),
    ],
)
def test_dotenv_values(tmp_path: Path, text: str, value: str) -> None:
    write(tmp_path / ".env", text)
    assert read_dotenv(tmp_path / ".env") == {"QUILL_OUT_DIR": value}


@pytest.mark.parametrize(
    "text", ["QUILL_DATA='a','b'", 'QUILL_DATA="a', "QUILL_SEED 3", 'KEY="open\nQUILL_SEED=3\nB="b"'], ids=ascii
)
def test_dotenv_line_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    write(tmp_path / ".env", f"A=1\n\n{text}\n")
    assert message_of(dotenv=tmp_path / ".env").startswith(f"{tmp_path}/.env line 3 cannot be read; write QUILL_NAME=")


def test_dotenv_line_without_value(tmp_path: Path) -> None:
    write(tmp_path / ".env", "A=1\nQUILL_SEED\n")
    assert message_of(dotenv=tmp_path / ".env").startswith(f"{tmp_path}/.env line 2: QUILL_SEED has no value")


def test_missing_dotenv_sets_nothing(tmp_path: Path) -> None:
    assert resolve("demo", {}, environ={}, dotenv=tmp_path / ".env").seed == 1337


def test_circle_of_extends_is_refused(tmp_path: Path) -> None:
    one = write(tmp_path / "one.toml", 'extends = "two.toml"\n')
    write(tmp_path / "two.toml", 'extends = "one.toml"\n')
    assert message_of(one) == "extends runs in a circle: one.toml -> two.toml -> one.toml"


def test_extends_is_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path / "base.toml", 'extends = "own-text"\nseed = 5\n')
    top = write(tmp_path / "sub" / "top.toml", 'extends = "../base.toml"\n')
    settings = resolve(top, {}, environ={}, dotenv=None)
    assert (settings.seed, settings.defaults) == (5, "scaled")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("n_layer = ", "is not valid TOML"),
        ("[model]\nn_layer = 3", "has tables ([model])"),
        ("extends = 3", "must be the name of a preset or a file"),
        ('extends = "nope.toml"', "nope.toml does not exist"),
        ('n_layer = "3"', "must be a whole number above 0"),
        ("n_layer = 3.0", "must be a whole number above 0"),
    ],
)
def test_bad_toml_is_explained(tmp_path: Path, text: str, reason: str) -> None:
    message = message_of(write(tmp_path / "run.toml", text))
    assert reason in message
    assert str(tmp_path) in message


def test_toml_takes_whole_numbers_and_none(tmp_path: Path) -> None:
    source = write(tmp_path / "run.toml", 'dropout = 0\neval_iters = "none"\ncompile = false\n')
    settings = resolve(source, {}, environ={}, dotenv=None)
    assert (settings.dropout, settings.eval_iters, settings.compile) == (0.0, None, False)
    assert isinstance(settings.dropout, float)


def test_nanogpt_path_that_is_not_here_names_the_preset() -> None:
    hint = "the preset shakespeare_char has nanoGPT's values: quill train shakespeare_char"
    assert message_of("config/train_shakespeare_char.py") == f"config/train_shakespeare_char.py does not exist; {hint}"
    assert message_of("config/train_gpt2.py").endswith("quill train train_gpt2")
    assert message_of("config/other.py") == "config/other.py does not exist"


def test_run_folder_as_a_source_names_its_settings(tmp_path: Path) -> None:
    write(tmp_path / "config.toml", "seed = 1\n")
    assert message_of(str(tmp_path)).endswith(f"its settings are in {tmp_path}/config.toml")


def test_source_by_default() -> None:
    assert resolve(None, {}, environ={}, dotenv=None) == resolve("train_gpt2", {}, environ={}, dotenv=None)
    assert resolve(None, {}, default_preset="demo", environ={}, dotenv=None).out_dir == "out-demo"
    assert resolve(None, {"data": "a.txt"}, environ={}, dotenv=None).defaults == "scaled"
    assert resolve(None, {}, environ={"QUILL_DATA": "a.txt"}, dotenv=None).defaults == "scaled"


def test_data_names_the_data_set_and_the_run(tmp_path: Path) -> None:
    settings = with_flags(data="books/My Book-2.txt")  # the preset's names are not the person's
    assert (settings.dataset, settings.out_dir) == ("my_book_2", "out-my_book_2")
    settings = with_flags(data="a.txt,b.txt", dataset="both")
    assert (settings.dataset, settings.out_dir) == ("both", "out-both")
    settings = with_flags(data="a.txt", out_dir="here")
    assert (settings.dataset, settings.out_dir) == ("a", "here")
    source = write(tmp_path / "run.toml", 'extends = "demo"\ndata = "a.txt"\ndataset = "mine"\nout_dir = "there"\n')
    settings = resolve(source, {}, environ={}, dotenv=None)
    assert (settings.dataset, settings.out_dir) == ("mine", "there")
    assert with_flags().dataset == "shakespeare_char"


NAMES = {
    "a/My Book-2.txt": "my_book_2",
    "-": "stdin",
    "x.tar.txt": "x.tar",
    "~/\u00dcbung (1).md": "\u00fcbung_1",
    "-x-.txt": "x",
    "shakespeare_char": "shakespeare_char",
}


@pytest.mark.parametrize("path", NAMES)
def test_a_text_names_its_data_set(path: str) -> None:
    assert name_of_sources([path, "other.txt"]) == NAMES[path]


def test_a_folder_is_named_whole(tmp_path: Path) -> None:
    (tmp_path / "v1.2").mkdir()
    assert name_of_sources([str(tmp_path / "v1.2")]) == "v1.2"


def test_data_without_a_name_is_refused() -> None:
    assert message_of(flags={"data": "---.txt"}).endswith("name it with --dataset NAME")


def test_sample_and_prepare_layers() -> None:
    given, environ = {"top_k": "none", "temperature": "1"}, {"QUILL_DEVICE": "cpu"}
    sample = resolve_flat(SampleSettings, given, environ=environ, dotenv=None)
    assert (sample.top_k, sample.temperature, sample.device, sample.num_samples) == (None, 1.0, "cpu", 10)
    assert resolve_flat(PrepareSettings, {"val_fraction": "0.2"}, environ={}, dotenv=None).val_fraction == 0.2
    with pytest.raises(ConfigError, match="--n_layer is unknown"):
        resolve_flat(SampleSettings, {"n_layer": "3"}, environ={}, dotenv=None)


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 5000, "0x" + "f" * 5000, '"a\\u0000b"'])
def test_values_that_no_setting_can_have(tmp_path: Path, value: str) -> None:
    name = "out_dir" if value.startswith('"') else "max_iters"
    message = message_of(write(tmp_path / "run.toml", f"{name} = {value}"))
    assert "run.toml" in message
    assert len(message) < 500


@pytest.mark.parametrize(
    "source", ["x" * 300, "x" * 300 + ".toml", "~nobody-of-this-name/run.toml", "a\0b.toml", "~\0", "folder.toml"]
)
def test_a_source_that_no_file_can_be(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.toml").mkdir()
    assert "does not exist" in message_of(source) or "is not a preset" in message_of(source)


def test_a_name_without_letters_is_shown(tmp_path: Path) -> None:
    assert "'' in" in message_of(write(tmp_path / "run.toml", '"" = 1'))


def test_a_run_that_goes_on_brings_its_own_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.toml").write_text('n_layer = 2\ndataset = "tales"\ninit_from = "scratch"\n')
    for word in ("resume", "finetune"):
        settings = resolve(None, {"init_from": word, "out_dir": "mine"}, environ={})
        assert (settings.n_layer, settings.dataset, settings.init_from) == (2, "tales", word)
        assert settings.out_dir == "mine"
    assert resolve(None, {"out_dir": "mine"}, environ={}).n_layer == 12


@pytest.mark.parametrize("word", ["1" * 400, "hf:" + "1" * 400, "~nobody-of-this-name/1"])
def test_a_text_that_no_path_can_be_gives_a_name_all_the_same(word: str) -> None:
    assert "1" in name_of_sources([word])


def test_a_value_that_is_not_utf8_cannot_be_recorded() -> None:
    assert message_of(flags={"out_dir": "caf\udce9"}).endswith("is not UTF-8, and cannot be recorded; rename it")


RUN = """\
dataset = "book"
data = "book.txt"
val_fraction = 0.2
minutes = 5.0
patience = 0
overwrite = true
learning_rate = 1e-2
muon_learning_rate = 2e-2
min_lr = 1e-3
n_layer = 3
max_iters = 400
defaults = "scaled"
"""


def finetuning(folder: Path, **flags: object) -> TrainSettings:
    folder.mkdir(exist_ok=True)
    write(folder / "config.toml", RUN)
    return resolve(None, {"init_from": "finetune", "out_dir": str(folder), **flags}, environ={}, dotenv=None)


def test_finetuning_leaves_a_runs_text_time_and_patience_behind(tmp_path: Path) -> None:
    settings = finetuning(tmp_path)
    assert (settings.dataset, settings.data, settings.n_layer, settings.max_iters) == ("book", None, 3, 400)
    assert (settings.minutes, settings.patience, settings.overwrite) == (None, None, False)
    rates = (settings.learning_rate, settings.muon_learning_rate, settings.min_lr)
    assert rates == pytest.approx((1e-3, 2e-3, 1e-4))


def test_finetuning_takes_another_text_by_either_name(tmp_path: Path) -> None:
    settings = finetuning(tmp_path, dataset="other")
    assert (settings.dataset, settings.data) == ("other", None)
    settings = finetuning(tmp_path, data="letters.txt")
    assert (settings.dataset, settings.data) == ("letters", "letters.txt")
    assert settings.out_dir == str(tmp_path)
    settings = finetuning(tmp_path, learning_rate="3e-4", minutes="1", patience="9")
    assert (settings.learning_rate, settings.minutes, settings.patience) == (3e-4, 1.0, 9)


def test_resuming_keeps_everything(tmp_path: Path) -> None:
    write(tmp_path / "config.toml", RUN)
    settings = resolve(None, {"init_from": "resume", "out_dir": str(tmp_path)}, environ={}, dotenv=None)
    assert (settings.data, settings.minutes, settings.learning_rate) == ("book.txt", 5.0, 1e-2)


@pytest.mark.parametrize(
    ("flags", "preset_rate", "block_is_open"),
    [({"init_from": "gpt2"}, 3e-5, True), ({"init_from": "a/b"}, 3e-5, True), ({"init_from": "scratch"}, 6e-4, False)],
)
def test_a_model_to_start_from_brings_its_preset(
    flags: dict[str, object], preset_rate: float, block_is_open: bool
) -> None:
    settings = resolve(None, flags, environ={}, dotenv=None)
    assert settings.learning_rate == preset_rate
    assert ("block_size" not in settings.model_fields_set) == block_is_open
    assert resolve(None, flags | {"data": "x.txt"}, environ={}, dotenv=None).defaults == "scaled"
