import json
import subprocess
import sys

import pytest
import torch

import quillgpt
from quillgpt.checkpoint import TrainingState, save_checkpoint, save_model
from quillgpt.checkpoint.names import BEST, point
from quillgpt.cli import main
from quillgpt.cli.eval import evaluate
from quillgpt.config.schema import LabSettings
from quillgpt.data.prepare import prepare
from quillgpt.errors import CheckpointError, ConfigError, DataError, DeviceError, TokenizerError
from quillgpt.evaluation import score_split
from quillgpt.lab.model_and_text import open_model_and_text
from quillgpt.text.tokenizers.byte import ByteTokenizer
from tiny import GPT2, QWEN3, tiny_model

TEXT = "The cat sat on the mat.\n" * 60


@pytest.fixture
def folder(tmp_path):
    save_model(tmp_path / "model", tiny_model(GPT2, vocab_size=257), ByteTokenizer(), about={"dataset": "cats"})
    return tmp_path / "model"


@pytest.fixture
def model(folder):
    return quillgpt.load(folder, device="cpu", dtype="float32", threads=1)


@pytest.fixture
def data_dir(tmp_path):
    (tmp_path / "cats.txt").write_text(TEXT)
    prepare([str(tmp_path / "cats.txt")], data_dir=tmp_path / "data", tokenizer="byte")
    return tmp_path / "data"


def test_importing_quill_imports_neither_torch_nor_numpy():
    check = "import sys, quillgpt; assert quillgpt.__version__; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_every_public_name_is_there_and_no_other():
    for name in quillgpt.__all__:
        assert getattr(quillgpt, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        quillgpt.lode  # noqa: B018


def test_a_loaded_model_writes(model):
    [sample] = model.generate("The", max_new_tokens=12, seed=3)
    assert (sample.prompt, len(sample.ids), sample.finish_reason) == ("The", 12, "length")
    assert model.generate("The", max_new_tokens=12, seed=3) == [sample]
    assert len(model.generate("The", num_samples=3, max_new_tokens=2)) == 3


def test_a_model_of_8_bits_writes_and_is_measured_as_it_writes(folder, model, data_dir):
    small = quillgpt.load(folder, device="cpu", dtype="float32", threads=1, quantize="int8")
    assert len(small.generate("The", max_new_tokens=12, seed=3)[0].ids) == 12
    found, exact = (each.evaluate("cats", data_dir=str(data_dir)).loss for each in (small, model))
    assert found != exact
    assert found == pytest.approx(exact, rel=0.02)


def test_writing_streams_the_first_sample(model):
    pieces = []
    [sample] = model.generate("The", on_text=pieces.append, max_new_tokens=30)
    assert "".join(pieces) == sample.text


def test_an_unknown_setting_is_an_error(model):
    with pytest.raises(ConfigError, match="did you mean --max_new_tokens"):
        model.generate("The", max_tokens=12)


def test_a_model_writes_in_its_number_format_and_keeps_its_weights(folder):
    model = quillgpt.load(folder, device="cpu", dtype="bfloat16", threads=1)
    assert len(model.generate("The", max_new_tokens=20)[0].ids) == 20
    assert {parameter.dtype for parameter in model.gpt.parameters()} == {torch.float32}


@pytest.mark.parametrize("split", ["val", "train"])
def test_a_loaded_model_measures_itself_on_a_data_set_by_name(split, model, data_dir):
    score = model.evaluate("cats", split=split, data_dir=str(data_dir))
    tokens = ByteTokenizer().encode(TEXT)
    cut = int(len(tokens) * 0.9)
    part = tokens[cut:] if split == "val" else tokens[:cut]
    expected = score_split(model.gpt, model.tokenizer, part, batch_size=2)
    assert score.tokens == expected.tokens
    assert score.loss == pytest.approx(expected.loss, rel=1e-5)


def test_a_split_shorter_than_the_context_is_measured_in_one_block_which_is_said(tmp_path, data_dir, capsys):
    long = tiny_model(GPT2, vocab_size=257, block_size=4096)
    save_model(tmp_path / "long", long, ByteTokenizer(), about={"dataset": "cats"})
    command = [
        "eval",
        str(tmp_path / "long"),
        "--device=cpu",
        "--dtype=float32",
        "--threads=1",
        f"--data_dir={data_dir}",
    ]
    assert main([*command, "--split=val", "--json"]) == 0
    told = capsys.readouterr()
    tokens = ByteTokenizer().encode(TEXT)[int(len(TEXT) * 0.9) :]
    score = json.loads(told.out)
    assert (score["block_size"], score["tokens"]) == (len(tokens) - 1, len(tokens) - 1)
    assert score["loss"] == pytest.approx(score_split(long, ByteTokenizer(), tokens, batch_size=1, block_size=143).loss)
    assert "cats val has fewer tokens than the model sees at once (4,096); it is read in one block of 143" in " ".join(
        told.err.split()
    )
    assert main([*command, "--split=val", "--block_size=20"]) == 0
    told = capsys.readouterr()
    [_, heads, row] = told.out.splitlines()
    assert heads.split()[-2:] == ["tokens", "context"]
    assert row.split()[-4:] == ["140", "1", "to", "20"]
    assert "fewer tokens" not in told.err
    assert main([*command, "--block_size=5000"]) == 2
    assert "block_size = 5000, and the model sees 4,096 tokens at once; give no more" in capsys.readouterr().err
    assert main([*command, "--split=val", "--block_size=200"]) == 1
    assert "the split has 144 tokens; one block of the model needs 201" in capsys.readouterr().err


def test_a_data_set_of_another_tokenizer_is_refused_with_both_names(model, data_dir, tmp_path):
    prepare([str(tmp_path / "cats.txt")], data_dir=data_dir, tokenizer="char", dataset="letters")
    with pytest.raises(
        TokenizerError, match=r"tokenizer char \(13 .* another, byte \(257 .*--dataset letters_2 .*--tokenizer"
    ):
        model.evaluate("letters", data_dir=str(data_dir))


def test_an_unknown_split_is_refused_rather_than_taken_for_another(model, data_dir):
    with pytest.raises(DataError, match="split = test is unknown; expected val or train"):
        model.evaluate("cats", split="test", data_dir=str(data_dir))


def test_a_missing_data_set_is_refused(model, tmp_path):
    with pytest.raises(DataError, match="no data set dogs"):
        model.evaluate("dogs", data_dir=str(tmp_path))
    with pytest.raises(DataError, match=r"quill prepare wikitext .*--tokenizer .*model"):
        model.evaluate("wiki", data_dir=str(tmp_path))


@pytest.mark.parametrize("recorded", ["../private", "/etc", "a/b", "..", "a\\b", 3, ["cats"], "x" * 9000])
def test_a_model_that_names_something_else_than_a_data_set_is_not_followed(folder, recorded):
    config = json.loads((folder / "config.json").read_text())
    config["quill"]["dataset"] = recorded
    (folder / "config.json").write_text(json.dumps(config))
    loaded = quillgpt.load(folder, device="cpu", dtype="float32", threads=1)
    with pytest.raises(CheckpointError, match="no folder in data_dir; do not trust it") as caught:
        evaluate(str(folder))
    assert len(str(caught.value)) < 400 + len(str(folder))
    with pytest.raises(CheckpointError, match="do not trust it"):
        open_model_and_text(str(folder), LabSettings(threads=1))
    assert loaded.about["dataset"] == recorded


def test_a_run_loads_as_its_best_checkpoint(tmp_path):
    weights = tiny_model(QWEN3, vocab_size=257)
    state = TrainingState(iteration=4)
    save_checkpoint(tmp_path, weights, ByteTokenizer(), about={"iteration": 4}, optimizer={}, state=state)
    point(tmp_path, BEST, "iter-000004")
    model = quillgpt.load(str(tmp_path), device="cpu", dtype="float32", threads=1)
    assert model.about["iteration"] == 4
    assert model.config == weights.config
    assert torch.equal(model.gpt.token_embedding.weight, weights.token_embedding.weight)


def test_what_cannot_be_loaded_is_a_user_error(folder, tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        quillgpt.load(tmp_path / "nowhere")
    with pytest.raises(DeviceError, match="no device"):
        quillgpt.load(folder, device="gpu")


def test_the_prompt_is_end_of_text_for_a_model_that_learnt_it(tmp_path):
    for ends, expected in ((True, ("", [256])), (False, ("\n", [10]))):
        folder = tmp_path / str(ends)
        save_model(folder, tiny_model(GPT2, vocab_size=257), ByteTokenizer(), about={"ends_documents": ends})
        assert quillgpt.load(folder, device="cpu", dtype="float32", threads=1).prompt(None) == expected


def test_a_prompt_longer_than_the_context_is_said(model, capsys):
    [sample] = model.generate("The cat sat on the mat. " * 4, max_new_tokens=5, temperature=0)
    said = " ".join(capsys.readouterr().err.split())
    assert "the prompt has 96 tokens, and the model sees 16 at once: its first 80 are not seen" in said
    [again] = model.generate(("The cat sat on the mat. " * 4)[-16:], max_new_tokens=5, temperature=0)
    assert sample.ids == again.ids
    assert "the prompt has" not in capsys.readouterr().err
