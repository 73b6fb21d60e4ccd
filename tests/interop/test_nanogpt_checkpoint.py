"""nanoGPT's checkpoints are read completely, and code in them does not run."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import quillgpt
from quillgpt.checkpoint import LoadedModel
from quillgpt.data.prepare import prepare
from quillgpt.errors import CheckpointError, DataError, TokenizerError
from quillgpt.interop import open_model
from quillgpt.text.tokenizers.tokenizer import tokenizer_from_spec
from tolerances import EXACT, FLOAT32

from .conftest import LETTERS, SIZES, checkpoint, write_meta


def load(path: Path, **options: Any) -> LoadedModel:
    """Open a model with an empty data_dir."""
    return open_model(path, **({"data_dir": path.parent / "nowhere"} | options))


def refuses(path: Path, *words: object, error: type[Exception] = CheckpointError) -> None:
    """Check that a path is refused in one line that has these words."""
    with pytest.raises(error) as caught:
        load(path)
    for word in (path, *words):
        assert str(word) in str(caught.value)
    assert "\n" not in str(caught.value)


def softmax_of_products(q: Tensor, k: Tensor, future: Tensor) -> Tensor:
    """Return what each query takes from each key: (B, H, T, D) twice to (B, H, T, T)."""
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(future, -torch.inf)
    return scores.softmax(-1)


def reference(
    weights: dict[str, Tensor],
    ids: Tensor,
    *,
    heads: int,
    attend: Callable[[Tensor, Tensor, Tensor], Tensor] = softmax_of_products,
    gelu: str = "none",
) -> Tensor:
    """Compute GPT-2 with nanoGPT's tensors in float64, by the formulas: (B, T) to (B, T, V)."""
    weights = {name.removeprefix("transformer."): tensor.double() for name, tensor in weights.items()}
    B, T = ids.shape
    width = weights["wte.weight"].shape[1]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (width,), weights[f"{name}.weight"], weights.get(f"{name}.bias"), 1e-5)

    x = weights["wte.weight"][ids] + weights["wpe.weight"][:T]
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    for block in (f"h.{layer}" for layer in range(SIZES["n_layer"])):
        q, k, v = (
            part.view(B, T, heads, -1).transpose(1, 2)
            for part in linear(norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn").split(width, dim=-1)
        )
        mixed = (attend(q, k, future) @ v).transpose(1, 2).reshape(B, T, width)
        x = x + linear(mixed, f"{block}.attn.c_proj")
        hidden = linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
        x = x + linear(F.gelu(hidden, approximate=gelu), f"{block}.mlp.c_proj")
    return norm(x, "ln_f") @ weights["lm_head.weight"].T


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
@pytest.mark.parametrize("bias", [True, False])
def test_the_model_computes_what_nanogpts_formulas_say(bias: bool, prefix: str, zipped: bool, write: Any) -> None:
    model = load(write(bias=bias, prefix=prefix, zipped=zipped)).model
    ids = torch.randint(len(LETTERS), (3, SIZES["block_size"]), generator=torch.Generator().manual_seed(3))
    expected = reference(checkpoint(bias=bias)["model"], ids, heads=SIZES["n_head"])
    torch.testing.assert_close(model.logits(model(ids)).double(), expected, **FLOAT32)
    assert (model.config.bias, model.config.activation, model.config.tied, model.training) == (
        bias,
        "gelu",
        True,
        False,
    )


def test_the_likeliest_text_is_that_of_the_formulas(write: Any) -> None:
    model = quillgpt.load(write(), device="cpu", dtype="float32", threads=1)
    weights = checkpoint()["model"]
    ids = [LETTERS.index(letter) for letter in "abc"]
    while len(ids) < SIZES["block_size"]:
        ids.append(int(reference(weights, torch.tensor([ids]), heads=SIZES["n_head"])[0, -1].argmax()))
    [sample] = model.generate("abc", temperature=0, max_new_tokens=len(ids) - 3)
    assert sample.text == "".join(LETTERS[token] for token in ids[3:])


def test_a_head_that_is_not_the_embedding_is_kept(write: Any) -> None:
    content = checkpoint()
    content["model"]["lm_head.weight"] = content["model"]["lm_head.weight"] + 1
    model = load(write(content)).model
    assert not model.config.tied
    torch.testing.assert_close(model.head.weight, content["model"]["lm_head.weight"], **EXACT)


def test_folder_and_file_are_the_same_model(write: Any) -> None:
    file = write()
    renamed = file.with_name("ckpt_250.PT")
    shutil.copy(file, renamed)
    for path in (file, file.parent, renamed):
        loaded = load(path)
        assert loaded.tokenizer.decode([4, 5]) == "ab"
        assert loaded.about == {"dataset": "letters", "ends_documents": False, "iteration": 250}
        assert loaded.model.dropout == 0.1


def test_a_model_in_use_does_not_depend_on_its_file(write: Any) -> None:
    file = write()
    model = load(file).model
    before = model.token_embedding.weight.clone()
    with file.open("r+b") as opened:  # as nanoGPT writes the next one over it
        opened.write(bytes(file.stat().st_size))
    torch.testing.assert_close(model.token_embedding.weight, before, **EXACT)


# Its tokenizer.


def test_the_table_of_characters_is_sought_beside_it_and_then_in_its_data_set(write: Any, tmp_path: Path) -> None:
    file = write(meta=False)
    write_meta(tmp_path / "data" / "letters", LETTERS[::-1])
    loaded = load(file, data_dir=tmp_path / "data")
    assert loaded.tokenizer.decode([0]) == LETTERS[-1]
    assert loaded.tokenizer_spec == str(tmp_path / "data" / "letters" / "meta.pkl")
    assert tokenizer_from_spec(loaded.tokenizer_spec).fingerprint == loaded.tokenizer.fingerprint
    write_meta(file.parent)
    assert load(file, data_dir=tmp_path / "data").tokenizer.decode([0]) == LETTERS[0]


@pytest.mark.download
@pytest.mark.usefixtures("gpt2_files")
@pytest.mark.parametrize("dataset", ["letters", None])
def test_without_a_table_it_is_gpt2s_which_is_said_and_padding_is_never_sampled(
    dataset: str | None, write: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    content = checkpoint(vocab_size=50304, dataset=dataset)
    content["model"]["transformer.wte.weight"][50257:] *= 100  # rows without a token, and the likeliest of all
    content["model"]["lm_head.weight"] = content["model"]["transformer.wte.weight"]
    model = quillgpt.load(write(content, meta=False), device="cpu", dtype="float32", threads=1)
    said = capsys.readouterr().err
    assert "no meta.pkl in" in said
    assert "GPT-2's" in said
    assert (f"data/{dataset}" in said) == (dataset is not None)
    for temperature in (0, 5):
        for sample in model.generate("The", num_samples=3, max_new_tokens=20, temperature=temperature, top_k=0):
            assert sample.ids
            assert max(sample.ids) < 50257


@pytest.mark.download
@pytest.mark.usefixtures("gpt2_files")
def test_a_vocabulary_that_is_not_gpt2s_needs_its_table(write: Any) -> None:
    refuses(write(meta=False), "vocabulary of 12", "no meta.pkl in", "50,257", "--data_dir", error=TokenizerError)


@pytest.mark.parametrize("characters", [LETTERS + "z", "ab"])
def test_the_table_of_another_data_set_is_refused(characters: str, write: Any) -> None:
    file = write(vocab_size=len(LETTERS) if len(characters) > 2 else 300, meta=False)
    meta = write_meta(file.parent, characters)
    refuses(file, meta, f"{len(characters)} tokens", error=TokenizerError)


@pytest.mark.parametrize("name", ["../letters", "/etc", "C:\\data", "a/../../b", 3])
def test_the_name_of_its_data_set_cannot_lead_elsewhere(name: Any, write: Any) -> None:
    refuses(write(dataset=name), repr(name), "not a folder in data_dir")


# What it should not hold.


class MakesFile:
    """A value whose unpickling creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["model", "optimizer", "config", "extra", "all"])
def test_a_checkpoint_that_wants_to_run_code_is_refused_and_runs_nothing(
    place: str, zipped: bool, write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "made"
    harmful = MakesFile(made)
    file = write(harmful if place == "all" else checkpoint() | {place: harmful}, zipped=zipped)
    refuses(file, "wants to run", "mkdir", "Nothing was run")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # a variable of torch's that other programs ask for
    refuses(file, "wants to run", "mkdir")
    assert not made.exists()
    torch.load(file, weights_only=False)  # the file would do what it says
    assert made.is_dir()


@pytest.mark.filterwarnings("error")  # a person need not hear of pickle protocols
def test_a_plain_pickle_in_its_place_runs_nothing(write: Any, tmp_path: Path) -> None:
    file = write()
    file.write_bytes(pickle.dumps(MakesFile(tmp_path / "made")))
    refuses(file)
    assert not (tmp_path / "made").exists()


def test_a_table_of_characters_that_wants_to_run_code_is_refused_and_runs_nothing(write: Any, tmp_path: Path) -> None:
    file = write()
    meta = write_meta(file.parent, extra=MakesFile(tmp_path / "made"))
    with pytest.raises(DataError, match=r"meta\.pkl is not plain data: it wants to run .*mkdir"):
        load(file)
    assert not (tmp_path / "made").exists()
    pickle.loads(meta.read_bytes())
    assert (tmp_path / "made").is_dir()


def test_names_in_the_archive_write_nowhere(write: Any, tmp_path: Path) -> None:
    file = write()
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("../../escaped", "x")
        archive.writestr(str(tmp_path / "absolute"), "x")
    before = set(tmp_path.rglob("*"))
    refuses(file, "damaged, or not a checkpoint")
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("content", [b"", b"rubbish", b"PK\x03\x04rubbish", b"\x80\x02."])
def test_a_file_without_a_checkpoint_is_named(content: bytes, write: Any) -> None:
    file = write()
    file.write_bytes(content)
    refuses(file, "damaged, or not a checkpoint")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_checkpoint_is_named(share: float, zipped: bool, write: Any) -> None:
    file = write(zipped=zipped)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    refuses(file, "damaged, or not a checkpoint")


def with_arguments(**changes: Any) -> dict[str, Any]:
    content = checkpoint()
    arguments = content["model_args"] | changes
    return content | {"model_args": {name: value for name, value in arguments.items() if value != "absent"}}


def with_weights(**changes: Any) -> dict[str, Any]:
    content = checkpoint()
    return content | {"model": content["model"] | changes}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "no dictionary"),
        ({}, "lacks the dictionary model_args"),
        (checkpoint() | {"model": {}}, "lacks the dictionary model"),
        (checkpoint() | {"model": [1]}, "lacks the dictionary model"),
        (with_arguments(n_layer="absent"), "n_layer: field required"),
        (with_arguments(n_layer=-1), "n_layer: input should be greater than 0"),
        (with_arguments(n_layer=10**9), "n_layer = 1000000000; the weights have 2"),
        (with_arguments(n_layer=1), "n_layer = 1; the weights have 2"),
        (with_arguments(n_head="2"), "n_head: input should be a valid integer"),
        (with_arguments(n_head=3), "n_head = 3 does not divide"),
        (with_arguments(n_embd=10**12), "wte.weight"),
        (with_arguments(block_size=13), "(13, 16); in the weights it is (12, 16)"),
        (with_arguments(dropout=2.0), "dropout: input should be less than 1"),
        (with_arguments(n_kv_head=1), "n_kv_head: extra inputs are not permitted"),
        (with_arguments(bias=True), "lack the tensor"),
        (with_weights(**{"transformer.wpe.weight": torch.ones(3)}), "(12, 16); in the weights it is (3,)"),
        (with_weights(**{"transformer.h.0.mlp.c_fc.weight": torch.ones(3)}), "mlp.up.weight has the shape (3,)"),
        (with_weights(**{"transformer.h.0.mlp.c_fc.weight": 3}), "'transformer.h.0.mlp.c_fc.weight' in model"),
        (with_weights(**{"transformer.ln_f.weight": torch.ones(16).to_sparse()}), "'transformer.ln_f.weight' in model"),
        (with_weights(**{"transformer.ln_f.bias": torch.ones(16)}), "transformer.ln_f.bias is not zero"),
        (with_weights(rotary=torch.ones(16)), "does not have: 'rotary'"),
    ],
)
def test_a_model_that_is_not_nanogpts_is_refused_by_name(content: Any, words: str, write: Any) -> None:
    refuses(write(content), words)


def test_a_file_of_another_kind_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"x")
    refuses(tmp_path / "model.bin", "is a file")


# Its place among our own.


def test_a_run_of_ours_in_the_same_folder_comes_first(write: Any) -> None:
    folder = write().parent
    (folder / "checkpoints").mkdir()
    refuses(folder, "without a checkpoint yet")


def test_a_nanogpt_model_is_evaluated_and_trained_like_any_other(write: Any, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("abc def gh!\n" * 40)
    file = write()
    tokenizer = tokenizer_from_spec(str(file.with_name("meta.pkl")))
    prepare([str(tmp_path / "text.txt")], data_dir=tmp_path / "data", tokenizer=tokenizer, dataset="letters")
    model = quillgpt.load(file, device="cpu", dtype="float32", threads=1)
    assert model.evaluate("letters", data_dir=str(tmp_path / "data")).loss > 1
