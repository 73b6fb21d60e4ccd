"""Checkpoints of programs that grew from nanoGPT: opened so that they compute the same, or refused with advice."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

import quillgpt
from quillgpt.errors import TokenizerError
from quillgpt.interop import open_model
from quillgpt.text.tokenizers.bpe import BytePairTokenizer
from tolerances import FLOAT64

from .conftest import LETTERS, SIZES, checkpoint, random_weights, write_meta
from .test_nanogpt_checkpoint import load, reference, refuses

HEADS, T, RANK = SIZES["n_head"], SIZES["block_size"], 3
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def agree(path: Path, weights: dict[str, Tensor], **options: Any) -> None:
    """Compare a model in float64 with the formulas of its program."""
    model = load(path).model.double()
    ids = torch.randint(len(LETTERS), (3, T), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(model.logits(model(ids)), reference(weights, ids, heads=HEADS, **options), **FLOAT64)


# homomorphic-attention: kernels, norms that always have biases, LoRA.


def distances(q: Tensor, k: Tensor) -> Tensor:
    return -(q[:, :, :, None] - k[:, :, None]).square().sum(-1) / (2 * q.shape[-1] ** 0.5)


def gaussian(q: Tensor, k: Tensor, future: Tensor) -> Tensor:
    return distances(q, k).exp().masked_fill(future, 0)


def eight_squarings(q: Tensor, k: Tensor, future: Tensor) -> Tensor:
    return ((1 + distances(q, k) / 2**8) ** 2**8).masked_fill(future, 0)


def squared_products(q: Tensor, k: Tensor, future: Tensor) -> Tensor:
    return ((q @ k.mT) ** 2 / q.shape[-1] / T).masked_fill(future, 0)


KERNELS = {"GK": gaussian, "GKpoly-8": eight_squarings, "PA_square": squared_products}


def with_kernel(attn_type: str, *, bias: bool = True, **arguments: Any) -> dict[str, Any]:
    """Return what homomorphic-attention's train.py saves: a mask in each block, and biases in all norms."""
    content = checkpoint(bias=bias)
    generator = torch.Generator().manual_seed(5)
    for name in list(content["model"]):
        if ".ln_" in name and name.endswith("weight"):
            content["model"].setdefault(
                name.removesuffix("weight") + "bias", torch.randn(SIZES["n_embd"], generator=generator)
            )
    masks = {f"transformer.h.{layer}.attn.bias": torch.ones(1, 1, T, T).tril() for layer in range(SIZES["n_layer"])}
    content["model"] |= masks
    content["model_args"] |= {"attn_type": attn_type, "add_lora": False} | arguments
    return content


def adapters() -> dict[str, Tensor]:
    """Return loralib's matrices of queries, keys and values, and of the projection after attention."""
    generator = torch.Generator().manual_seed(7)
    width = SIZES["n_embd"]
    matrices = {}
    for layer in range(SIZES["n_layer"]):
        for name, out in (("c_attn", 3 * width), ("c_proj", width)):
            matrices[f"transformer.h.{layer}.attn.{name}.lora_A"] = torch.randn(RANK, width, generator=generator)
            matrices[f"transformer.h.{layer}.attn.{name}.lora_B"] = torch.randn(out, RANK, generator=generator)
    return matrices


def merged(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights as that program computes with them: W + B A / r."""
    change = adapters()
    modules = {name.rpartition(".")[0] for name in change}
    return weights | {
        f"{module}.weight": weights[f"{module}.weight"] + change[f"{module}.lora_B"] @ change[f"{module}.lora_A"] / RANK
        for module in modules
    }


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("attn_type", KERNELS)
def test_a_kernel_of_homomorphic_attention_is_the_same_kernel_here(attn_type: str, bias: bool, write: Any) -> None:
    content = with_kernel(attn_type, bias=bias)
    file = write(content)
    agree(file, content["model"], attend=KERNELS[attn_type])
    assert load(file).config.kernel.attn_type == attn_type


def test_lora_matrices_are_merged(write: Any) -> None:
    content = with_kernel("GK", add_lora=True)
    weights = content["model"]
    content["model"] = weights | adapters()
    agree(write(content), merged(weights), attend=gaussian)


def test_a_model_with_another_kernel_samples_evaluates_and_trains(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quillgpt.cli import main
    from quillgpt.data.prepare import prepare

    monkeypatch.chdir(tmp_path)
    file = write(with_kernel("GKpoly-8", bias=False))
    write_meta(tmp_path / "data" / "letters")
    (tmp_path / "text.txt").write_text("abc def gh!\nbad cab.\n" * 40)
    prepare(["text.txt"], data_dir=Path("data"), tokenizer=load(file).tokenizer, dataset="text")
    model = quillgpt.load(file, device="cpu", dtype="float32", threads=1)
    measured = model.evaluate("text").loss
    small = ["--max_iters=1", "--learning_rate=0", "--min_lr=0", "--eval_iters=1", "--batch_size=2"]
    machine = ["--device=cpu", "--dtype=float32", "--compile=False", "--threads=1"]
    assert main(["train", f"--init_from={file}", "--dataset=text", "--out_dir=new", *small, *machine]) == 0
    assert open_model(Path("new")).config.kernel.attn_type == "GKpoly-8"
    trained = quillgpt.load("new", device="cpu", dtype="float32", threads=1)
    assert trained.evaluate("text").loss == pytest.approx(measured, rel=1e-5)
    assert trained.generate("abc", max_new_tokens=5, temperature=0) == model.generate(
        "abc", max_new_tokens=5, temperature=0
    )


def test_lora_matrices_alone_belong_to_the_published_model_that_they_name(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base = GPT2LMHeadModel(GPT2Config(**{name: SIZES[name] for name in ("n_layer", "n_head", "n_embd")}, **POSITIONS))
    base.save_pretrained("gpt2")
    TOKENS.save(Path("gpt2"))
    weights = {name: tensor.detach() for name, tensor in base.state_dict().items()}
    for name in weights:
        if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            weights[name] = weights[name].T
    content = with_kernel("GK", add_lora=True, vocab_size=None, n_layer=12)
    content |= {"model": {f"module.{name}": tensor for name, tensor in adapters().items()}}
    content["config"] = {"init_from": "lora_gpt2"}
    monkeypatch.setattr(
        "quillgpt.interop.nanogpt_checkpoint.gpt2_tokenizer", lambda: TOKENS
    )  # the real one is a download
    agree(write(content, meta=False), merged(weights), attend=gaussian)
    content["config"] = {"init_from": "finetune"}
    refuses(write(content), "LoRA matrices only", "'finetune'")


TOKENS = BytePairTokenizer.train(["the dog sees the dog. "], 257)
POSITIONS = {"n_positions": 2 * T, "vocab_size": TOKENS.vocab_size, "bos_token_id": 256, "eos_token_id": 256}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"attn_type": "GKpoly-99"}, "attn_type: GKpoly-99 is no attention kernel; expected SM, GK"),
        ({"attn_type": 3}, "attn_type: input should be a valid string"),
        ({"attn_type": "x" * 5000}, "attn_type: string should have at most 60 characters"),
        ({"x" * 5000: 3}, "xxx: extra inputs are not permitted"),
        ({"add_lora": "yes"}, "add_lora: input should be a valid boolean"),
        ({"vocab_size": 13}, "(13, 16); in the weights it is (12, 16)"),
    ],
)
def test_wrong_model_args_are_named(change: dict[str, Any], words: str, write: Any) -> None:
    refuses(write(with_kernel(**({"attn_type": "GK"} | change))), words)


def test_lora_matrices_that_fit_no_weight_are_named(write: Any) -> None:
    content = with_kernel("GK")
    content["model"]["transformer.h.0.mlp.c_fc.lora_A"] = torch.ones(2, 16)
    refuses(write(content), "LoRA matrices of transformer.h.0.mlp.c_fc", "(2, 16), None")


# Layouts of other programs.


@dataclass
class GPTConfig:
    """What build-nanogpt saves beside its weights."""

    block_size: int = T
    vocab_size: int = len(LETTERS)
    n_layer: int = SIZES["n_layer"]
    n_head: int = HEADS
    n_embd: int = SIZES["n_embd"]


def test_build_nanogpts_dataclass_is_read_as_its_fields(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    weights = random_weights(**SIZES, bias=True)
    file = write({"model": weights, "config": GPTConfig(), "step": 40, "val_loss": np.float64(3.0)})
    agree(file, weights, gelu="tanh")
    assert load(file).about["iteration"] == 40
    assert "layout of build-nanogpt" in capsys.readouterr().err


def test_a_dataclass_of_nanogpts_own_is_nanogpts_model(write: Any) -> None:
    weights = random_weights(**SIZES, bias=False)
    config = GPTConfig()
    vars(config).update(bias=False, dropout=0.1)
    agree(write({"model": weights, "config": config, "iter_num": 3}), weights)


def lightning(tokenizer_name: str = "char", **changes: Any) -> dict[str, Any]:
    """Return what lightning saves of simpleGPT's model, but for the optimizer."""
    sizes = {"n_vocab": len(LETTERS), "n_ctx": T} | {name: SIZES[name] for name in ("n_layer", "n_head", "n_embd")}
    weights = random_weights(**SIZES, bias=True)
    del weights["lm_head.weight"]
    return {
        "state_dict": {f"gpt.{name.removeprefix('transformer.')}": tensor for name, tensor in weights.items()},
        "hyper_parameters": {
            "tokenizer_name": tokenizer_name,
            "model": sizes,
            "data": {"train_fpath": pathlib.PosixPath("data/train.bin")},
            "optimization": {"dropout_p": 0.25},
        },
        "global_step": 30,
        "pytorch-lightning_version": "2.1.0",
    } | changes


def test_simplegpts_lightning_checkpoint_is_opened(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(lightning(), meta=False)
    agree(file, random_weights(**SIZES, bias=True))
    loaded = load(file)
    assert (loaded.dropout, loaded.about["iteration"]) == (0.25, 30)
    assert loaded.tokenizer.encode("\x00\x0b").tolist() == [0, 11]  # a token is a code point there
    assert "lightning" in capsys.readouterr().err


def test_a_text_for_its_implied_tokenizer_is_prepared_in_training(write: Any, tmp_path: Path) -> None:
    from quillgpt.data.prepare import prepare

    (tmp_path / "text.txt").write_text("abc def\n" * 60)
    prepare([str(tmp_path / "text.txt")], data_dir=tmp_path, tokenizer="char", dataset="text")
    file = write(lightning(), meta=False)
    model = quillgpt.load(file, device="cpu", dtype="float32", threads=1)
    with pytest.raises(TokenizerError, match=r"quill train --init_from=\S+ckpt.pt --data=PATH prepares a text for it"):
        model.evaluate("text", data_dir=str(tmp_path))


def test_munchkins_folder_holds_nanogpts_layout(write: Any) -> None:
    file = write()
    file.rename(file.with_name("checkpoint.pt"))
    assert load(file.parent).folder.name == "checkpoint.pt"


def test_scalars_of_numpy_and_paths_are_no_reason_to_refuse(write: Any) -> None:
    content = checkpoint() | {"best_val_loss": np.float32(1.5), "where": pathlib.PureWindowsPath("C:/x")}
    assert load(write(content)).about["iteration"] == 250


class Whole(nn.Module):
    """A model that was saved as it is."""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lightning(state_dict={"net.weight": torch.ones(3)}), ("lightning's layout", "simpleGPT's", "torch.save({")),
        (lightning(hyper_parameters={"lr": 1.0}), ("lightning's layout", "torch.save({")),
        (lightning(hyper_parameters=None), ("lightning's layout",)),
        (random_weights(**SIZES, bias=True), ("bare state_dict", "number of heads", "torch.save({")),
        ({"net": torch.ones(3)}, ("bare state_dict",)),
        (Whole(), ("has objects of another program", "Whole", "no code of it was run", "torch.save({")),
        (checkpoint() | {"tool": Whole()}, ("has objects of another program",)),
        ({"model": random_weights(**SIZES, bias=True), "config": GPTConfig(n_layer=3)}, ("n_layer = 3",)),
        ({"model": {}, "config": GPTConfig()}, ("lacks the dictionary model",)),
    ],
)
def test_a_layout_that_is_not_opened_is_named(content: Any, words: tuple[str, ...], write: Any) -> None:
    file = write(content)
    refuses(file, *words)
    with pytest.raises(quillgpt.errors.CheckpointError) as caught:
        load(file)
    assert "trust" not in str(caught.value)
