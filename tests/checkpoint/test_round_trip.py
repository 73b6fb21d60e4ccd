import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from quillgpt.attention import KernelSpec
from quillgpt.checkpoint import TrainingState, load_model, load_training_state, save_model
from quillgpt.checkpoint import save as saving
from quillgpt.checkpoint.weights import WEIGHTS
from quillgpt.errors import CheckpointError
from quillgpt.model import add_adapters, for_inference, inference_form
from quillgpt.text.tokenizers.byte import ByteTokenizer
from quillgpt.text.tokenizers.char import CharTokenizer
from tiny import CONFIGS, GPT2, random_ids, tiny_model

STATE = TrainingState(
    iteration=7,
    tokens=1234,
    seconds=5.5,
    train_seconds=4.25,
    best_val_loss=1.875,
    best_iteration=5,
    evaluated_iteration=6,
    settings={"n_layer": 3, "dtype": "float32"},
    data_fingerprint="abc",
    scaler={
        "scale": 65536.0,
        "growth_factor": 2.0,
        "backoff_factor": 0.5,
        "growth_interval": 2000,
        "_growth_tracker": 3,
    },
)


@pytest.mark.parametrize("arch", CONFIGS)
def test_weights_come_back_bit_for_bit(arch, save):
    model = tiny_model(CONFIGS[arch])
    loaded = load_model(save(model=model))
    assert loaded.model.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name
    assert not loaded.model.training


@pytest.mark.parametrize("bias", [True, False])
def test_a_model_without_biases_has_none_after_loading(bias, save):
    loaded = load_model(save(model=tiny_model(GPT2, bias=bias))).model
    assert any(name.endswith("bias") for name, _ in loaded.named_parameters()) == bias


def test_a_loaded_model_can_be_trained_with_its_head_tied(save):
    model = load_model(save()).model
    ids = random_ids(model.config, 1, 17)
    model.loss_sum(ids[:, :-1], ids[:, 1:]).backward()
    assert model.head.weight is model.token_embedding.weight
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("arch", CONFIGS)
def test_a_model_that_only_reads_takes_rows_of_its_table_from_the_file(arch, stored, tmp_path):
    save_model(tmp_path, tiny_model(CONFIGS[arch], vocab_size=257), ByteTokenizer(), about={})
    tensors = {name: tensor.to(stored) for name, tensor in load_file(tmp_path / WEIGHTS).items()}
    save_file(tensors, tmp_path / WEIGHTS)
    loaded = load_model(tmp_path)
    ids = random_ids(loaded.config, 2, 16)
    with torch.inference_mode():
        twin = for_inference(loaded.model, torch.float32, quantize="int8")
        expected = twin.logits(twin(ids))
        reader = loaded.build(inference_form(torch.float32, quantize="int8", device=torch.device("cpu")))
        assert not any(name.startswith("token_embedding") for name in reader.state_dict())
        (tmp_path / WEIGHTS).unlink()  # as training does with a checkpoint that a better one replaces
        assert torch.equal(reader.logits(reader(ids)), expected)


def test_training_state_and_optimizer_come_back(save):
    optimizer = {"blocks.0.mlp.up.weight/exp_avg": torch.randn(3, 2), "blocks.0.mlp.up.weight/step": torch.tensor(7.0)}
    stored = load_training_state(save(7, optimizer=optimizer, state=STATE))
    tensors, state = stored.optimizer, stored.state
    assert state == STATE
    assert all(torch.equal(tensors[name], tensor) for name, tensor in optimizer.items())
    assert tensors.keys() == optimizer.keys()


def test_the_tokenizer_and_the_origin_come_back(save):
    loaded = load_model(save())
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("A B  C")) == "A B  C"
    assert loaded.about["dataset"] == "abc"
    assert loaded.about["bias"] is True


def test_dropout_is_kept_unless_another_is_asked_for(tmp_path, save):
    model = tiny_model(GPT2)
    model.dropout = 0.25
    folder = save(model=model)
    assert load_model(folder).model.blocks[0].dropout == 0.25
    assert load_model(folder, dropout=0.0).model.blocks[0].dropout == 0.0


def test_a_tied_head_is_stored_once(save):
    stored = load_file(save() / "model.safetensors")
    assert "lm_head.weight" not in stored
    assert sum(tensor.numel() for tensor in stored.values()) == tiny_model(GPT2).parameter_count()


def test_a_checkpoint_holds_no_pickle_and_nothing_unknown(save):
    folder = save()
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
        "README.md",
        "config.json",
        "generation_config.json",
        "manifest.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training/optimizer.safetensors",
        "training/state.json",
    }


def test_a_model_starts_with_end_of_text_only_where_it_learnt_to(tmp_path):
    model = tiny_model(GPT2, vocab_size=257)
    for name, ends in (("without", False), ("with", True)):
        save_model(tmp_path / name, model, ByteTokenizer(), about={"ends_documents": ends})
        assert load_model(tmp_path / name).starts_with_end_of_text is ends
    config = json.loads((tmp_path / "with" / "config.json").read_text())
    del config["quill"]
    (tmp_path / "with" / "config.json").write_text(json.dumps(config))
    assert load_model(tmp_path / "with").starts_with_end_of_text  # another program's: pretrained


def test_a_tokenizer_without_end_of_text_starts_no_model_with_it(tmp_path):
    save_model(tmp_path, tiny_model(GPT2), CharTokenizer("abc"), about={"ends_documents": True})
    assert not load_model(tmp_path).starts_with_end_of_text


def test_a_model_without_training_state_cannot_be_resumed(tmp_path):
    save_model(tmp_path, tiny_model(GPT2), CharTokenizer("abc"), about={})
    with pytest.raises(CheckpointError, match="no training state; start from it with --init_from"):
        load_training_state(load_model(tmp_path).folder)


def test_saving_the_same_iteration_again_replaces_it(save, run):
    save(3)
    new = tiny_model(GPT2, seed=50)
    folder = save(3, model=new, state=STATE.model_copy(update={"iteration": 3}))
    assert torch.equal(load_model(folder).model.token_embedding.weight, new.token_embedding.weight)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["iter-000003"]


@pytest.mark.parametrize("arch", CONFIGS)
def test_a_kernel_comes_back_and_no_stock_class_takes_it_for_softmax(arch, tmp_path):
    kernel = KernelSpec(
        "GKpoly-6", poly_form="chebyshev", poly_range=8.0, learn_tau=True, learn_gain=True, qk_norm=True
    )
    model = tiny_model(CONFIGS[arch], vocab_size=257, kernel=kernel)
    save_model(tmp_path, model, ByteTokenizer(), about={})
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["model_type"], config["arch"], config["attn_type"]) == ("quill", arch, "GKpoly-6")
    with pytest.raises(ValueError, match="quill"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.config == model.config
    ids = random_ids(model.config, 1, 16)
    with torch.no_grad():
        assert torch.equal(loaded.model(ids), model(ids))


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("attn_type", "GKpoly-99", "GKpoly-99 is no attention kernel; expected SM, GK"),
        ("attn_type", 3, "attn_type"),
        ("len_alpha", "1", "len_alpha"),
        ("poly_form", "spline", "poly_form"),
        ("poly_range", -1.0, "poly_range"),
        ("arch", "llama", "model_type is 'llama'"),
        ("learn_tau", None, "learn_tau is missing"),
    ],
)
def test_a_damaged_kernel_is_named(key, value, complaint, tmp_path):
    save_model(tmp_path, tiny_model(GPT2, vocab_size=257, kernel=KernelSpec("GK")), ByteTokenizer(), about={})
    config = json.loads((tmp_path / "config.json").read_text())
    config = {name: stored for name, stored in config.items() if name != key} | ({} if value is None else {key: value})
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError) as error:
        load_model(tmp_path)
    assert complaint in str(error.value).replace("'", "") or complaint in str(error.value)


def test_all_files_of_a_checkpoint_are_on_the_disk_before_its_manifest_is(save, monkeypatch):
    flushed, written = [], []
    monkeypatch.setattr(saving, "flush_to_disk", lambda path: flushed.append(path.name))
    write = saving.write_manifest
    monkeypatch.setattr(saving, "write_manifest", lambda folder: (written.extend(flushed), write(folder)))
    model = tiny_model(GPT2)
    add_adapters(model, rank=2, alpha=2.0, dropout=0.0, targets="all", seed=0)
    folder = save(model=model, optimizer={"a/b": torch.ones(3)})
    there = {path.name for path in folder.rglob("*")} - {"manifest.json"}
    assert {"adapter_model.safetensors", "adapter_config.json", "optimizer.safetensors", "adapter"} <= there
    assert there <= set(written)
