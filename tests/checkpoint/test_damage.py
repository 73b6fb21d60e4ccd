import hashlib
import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from quillgpt.attention import KernelSpec
from quillgpt.checkpoint import TrainingState, load_model, load_training_state, save_model
from quillgpt.errors import CheckpointError, TokenizerError
from quillgpt.text.tokenizers.byte import ByteTokenizer
from quillgpt.text.tokenizers.char import CharTokenizer
from tiny import GPT2, QWEN3, tiny_model

FILES = ("config.json", "model.safetensors", "tokenizer.json", "training/optimizer.safetensors", "training/state.json")

OUTSIDE = ("../../../secret", "training/../../../../secret", "/etc/hostname", "C:\\secret", "..\\secret")


def refuses(folder, *words):
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    for word in words:
        assert str(word) in str(caught.value)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named(name, save):
    file = save(optimizer={"a/b": torch.ones(100)}) / name
    file.write_bytes(file.read_bytes()[:-1])
    refuses(file.parents[name.count("/")], file, "is damaged", "bytes")


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_noticed(name, save):
    file = save(optimizer={"a/b": torch.ones(100)}) / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    refuses(file.parents[name.count("/")], file, "is damaged", "SHA-256")


@pytest.mark.parametrize("name", [name for name in FILES if name != "config.json"])
def test_a_missing_file_is_named(name, save):
    folder = save()
    (folder / name).unlink()
    refuses(folder, folder / name, "is missing")


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"format_version": "x", "files": {}}'])
def test_a_checkpoint_with_a_missing_or_damaged_manifest_is_not_trusted(content, save):
    file = save() / "manifest.json"
    file.unlink() if content is None else file.write_text(content)
    refuses(file.parent, file, "is missing" if content is None else "is damaged", "cannot be trusted")


def test_a_newer_format_asks_for_a_newer_quill(save):
    file = save() / "manifest.json"
    edit(file, format_version=2, quill_version="99.0")
    refuses(file.parent, file, "format_version is 2", "install a newer Quill")


def test_a_format_that_this_quill_did_not_write_is_damage(save):
    file = save() / "manifest.json"
    edit(file, format_version=3)  # one bit away from 1
    refuses(file.parent, file, "damaged")


@pytest.mark.parametrize("entry", [None, 3, {}, {"bytes": "x", "sha256": ""}, {"bytes": 1}])
def test_a_manifest_with_a_damaged_entry_is_not_trusted(entry, save):
    file = save() / "manifest.json"
    edit(file, files={"config.json": entry})
    refuses(file.parent, file, "is damaged: files.config.json", "cannot be trusted")


@pytest.mark.parametrize("name", FILES)
def test_a_manifest_that_leaves_out_what_a_checkpoint_needs_is_refused_by_name(name, save):
    folder = save(optimizer={"a/b": torch.ones(100)})
    files = json.loads((folder / "manifest.json").read_text())["files"]
    del files[name]
    edit(folder / "manifest.json", files=files)
    refuses(folder, folder / "manifest.json", f"does not list {name}", "cannot be trusted")
    if name != "config.json":  # by which a checkpoint is known
        (folder / name).unlink()
        refuses(folder, folder / "manifest.json", f"does not list {name}", "cannot be trusted")


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "tokenizer_config.json", "training/more.safetensors"])
def test_a_file_that_is_read_and_not_listed_is_refused_by_name(name, save):
    folder = save()
    files = json.loads((folder / "manifest.json").read_text())["files"]
    files.pop(name, None)
    edit(folder / "manifest.json", files=files)
    (folder / name).write_text("{}")
    refuses(folder, folder / "manifest.json", f"does not list {name}")


def test_what_a_person_lays_beside_the_files_of_a_checkpoint_is_no_damage(save):
    folder = save()
    (folder / "README.md").write_text("My best one.")
    (folder / ".DS_Store").write_bytes(b"\0")
    assert load_model(folder).about["dataset"] == "abc"


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_manifest_that_names_a_file_outside_is_refused_by_name(name, save, tmp_path):
    folder = save()
    (tmp_path / "secret").write_text("secret")
    files = json.loads((folder / "manifest.json").read_text())["files"]
    files[name] = {"bytes": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
    edit(folder / "manifest.json", files=files)
    refuses(folder, folder / "manifest.json", repr(name), "outside the checkpoint")


def test_a_checkpoint_whose_weights_are_a_link_out_of_it_is_refused(save, tmp_path):
    folder = save()
    (folder / "model.safetensors").rename(tmp_path / "elsewhere")
    (folder / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    refuses(folder, folder / "manifest.json", "'model.safetensors'", "outside the checkpoint")


# What follows are folders without a manifest, such as other programs write.


@pytest.fixture
def folder(tmp_path):
    save_model(tmp_path, tiny_model(GPT2, bias=False), CharTokenizer("abc"), about={})
    return tmp_path


@pytest.fixture
def qwen3(tmp_path):
    save_model(tmp_path, tiny_model(QWEN3), CharTokenizer("abc"), about={})
    return tmp_path


@pytest.mark.parametrize("content", ["", "{", "[]", "3"])
def test_a_config_that_is_no_json_object_is_named(content, folder):
    (folder / "config.json").write_text(content)
    refuses(folder, folder / "config.json", "damaged")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "llama"),
        ("model_type", None),
        ("activation_function", "relu"),
        ("scale_attn_by_inverse_layer_idx", True),
        ("add_cross_attention", True),
    ],
)
def test_a_gpt2_that_we_cannot_hold_is_refused_by_name(key, value, folder):
    edit(folder / "config.json", **{key: value})
    refuses(folder, folder / "config.json", key, repr(value), "supported")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention_bias", True),
        ("hidden_act", "gelu"),
        ("use_sliding_window", True),
        ("rope_scaling", {"factor": 2.0, "type": "linear"}),
    ],
)
def test_a_qwen3_that_we_cannot_hold_is_refused_by_name(key, value, qwen3):
    edit(qwen3 / "config.json", **{key: value})
    refuses(qwen3, qwen3 / "config.json", key, repr(value), "supported")


def test_scaled_rotary_positions_are_refused_by_name(qwen3):
    edit(qwen3 / "config.json", rope_parameters={"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0})
    refuses(qwen3, qwen3 / "config.json", "rope_type", "'yarn'", "supported is 'default'")


def test_a_missing_size_is_named(folder):
    config = json.loads((folder / "config.json").read_text())
    del config["n_embd"]
    (folder / "config.json").write_text(json.dumps(config))
    refuses(folder, folder / "config.json", "'n_embd' is missing")


def change_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    "name", ["transformer.ln_f.bias", "transformer.h.1.attn.c_attn.bias", "transformer.h.0.mlp.c_proj.bias"]
)
def test_a_bias_that_is_not_zero_where_there_should_be_none_is_refused(name, folder):
    change_weights(folder, lambda tensors: tensors[name][3].fill_(1e-6))
    refuses(folder, folder, f"{name} is not zero", "no biases")


def test_a_missing_tensor_is_named(folder):
    change_weights(folder, lambda tensors: tensors.pop("transformer.h.2.mlp.c_fc.weight"))
    refuses(folder, folder, "transformer.h.2.mlp.c_fc.weight")


def test_a_tensor_too_many_is_named(folder):
    change_weights(folder, lambda tensors: tensors.update({"transformer.h.9.mlp.c_fc.weight": torch.ones(1)}))
    refuses(folder, folder, "transformer.h.9.mlp.c_fc.weight")


def test_weights_of_another_size_are_named(folder):
    edit(folder / "config.json", n_positions=17)
    refuses(folder, folder, "position_embedding.weight", "(16, 32)", "(17, 32)")


@pytest.mark.parametrize("content", [b"", b"rubbish" * 10])
def test_weights_that_are_no_safetensors_are_named(content, folder):
    (folder / "model.safetensors").write_bytes(content)
    refuses(folder, folder / "model.safetensors", "damaged")


def test_pickled_weights_are_not_opened(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refuses(folder, folder, "weights only as pytorch_model.bin", "save_pretrained(")


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_index_is_named(content, folder):
    (folder / "model.safetensors.index.json").write_text(content)
    refuses(folder, folder / "model.safetensors.index.json", "damaged")


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_index_that_names_weights_outside_is_refused_by_name(name, folder, tmp_path):
    index = {"weight_map": {"transformer.wte.weight": "model.safetensors", "transformer.wpe.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refuses(folder, folder / "model.safetensors.index.json", repr(name), "outside the model's folder")


def test_weights_in_parts_are_read_by_their_index(folder):
    whole = load_model(folder).model.state_dict()
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    index = {name: f"part-{len(name) % 2}.safetensors" for name in tensors}
    for part in set(index.values()):
        save_file({name: tensor for name, tensor in tensors.items() if index[name] == part}, folder / part)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    for name, tensor in load_model(folder).model.state_dict().items():
        assert torch.equal(tensor, whole[name])


def test_a_tokenizer_with_more_ids_than_the_model_has_rows_is_refused_with_both_numbers(folder):
    ByteTokenizer().save(folder)
    with pytest.raises(TokenizerError, match=r"has ids up to 256, but the model has rows for the first 65 only"):
        load_model(folder)


@pytest.mark.parametrize("key", ["model_type", "n_embd", "activation_function", "layer_norm_epsilon", "n_layer"])
@pytest.mark.parametrize("value", ["x" * 5000, ["x" * 100] * 100, {"a" * 300: {"b": "c" * 3000}}, 10**4000])
def test_a_long_value_of_a_config_is_quoted_in_part(key, value, folder):
    edit(folder / "config.json", **{key: value})
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    assert len(str(caught.value)) < len(str(folder)) + 300


def test_a_long_name_of_a_tensor_or_a_kernel_is_quoted_in_part(folder):
    change_weights(folder, lambda tensors: tensors.update({"x" * 5000: torch.ones(1), "y" * 5000: torch.ones(1)}))
    with pytest.raises(CheckpointError, match=r"does not have: '(xxx|yyy).*(xxx|yyy)'") as caught:
        load_model(folder)
    assert len(str(caught.value)) < len(str(folder)) + 300
    model = tiny_model(GPT2, kernel=KernelSpec("GK"))
    save_model(folder, model, CharTokenizer("abc"), about={})
    edit(folder / "config.json", attn_type="z" * 5000)
    with pytest.raises(CheckpointError, match=r"config\.json: zzz.*zzz\.\.\.") as caught:
        load_model(folder)
    assert len(str(caught.value)) < len(str(folder)) + 500


# Saving must not leave half a checkpoint behind.


@pytest.mark.parametrize("failing", ["describe_model", "TensorFile.write", "write_manifest", "flush_to_disk"])
def test_a_failure_while_saving_keeps_the_old_checkpoint_and_leaves_nothing_behind(failing, save, run, monkeypatch):
    folder = save(3)
    before = load_model(folder).model.token_embedding.weight

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"quillgpt.checkpoint.save.{failing}", fail)
    for iteration in (3, 4):
        with pytest.raises(OSError, match="No space left"):
            save(iteration, model=tiny_model(GPT2, seed=77))
    assert torch.equal(load_model(folder).model.token_embedding.weight, before)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["iter-000003"]


def test_a_failure_at_the_last_rename_keeps_the_old_checkpoint(save, run, monkeypatch):
    folder = save(3)
    before = load_model(folder).model.token_embedding.weight
    rename = type(folder).rename

    def fail(path, target):
        if re.match(r"\.writing-", path.name):
            raise PermissionError(13, "in use by another program")
        return rename(path, target)

    monkeypatch.setattr(type(folder), "rename", fail)
    with pytest.raises(PermissionError):
        save(3, model=tiny_model(GPT2, seed=77))
    assert torch.equal(load_model(folder).model.token_embedding.weight, before)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["iter-000003"]


def test_the_manifest_is_written_after_everything_else(save, monkeypatch):
    order = []
    monkeypatch.setattr(
        "quillgpt.checkpoint.save.write_manifest",
        lambda folder: order.extend(sorted(path.name for path in folder.rglob("*") if path.is_file())),
    )
    folder = save()
    assert set(order) == {path.name for path in folder.rglob("*") if path.is_file()}
    assert len(order) == 8


@pytest.mark.parametrize(
    "changes",
    [
        {"n_layer": 10**9},
        {"n_layer": 0},
        {"n_embd": "32"},
        {"n_head": 0},
        {"n_head": 5},
        {"vocab_size": True},
        {"quill": 5},
        {"quill": {"bias": "no"}},
        {"layer_norm_epsilon": "x"},
        {"resid_pdrop": 2},
        {"model_type": ["gpt2"]},
    ],
)
def test_a_config_with_an_impossible_value_is_refused(changes, folder):
    edit(folder / "config.json", **changes)
    refuses(folder, folder / "config.json")


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"files": {"a": {"bytes": 1e999, "sha256": ""}}, "format_version": 1}']
)
def test_a_manifest_that_makes_no_sense_is_damaged(content, save):
    file = save() / "manifest.json"
    file.write_text(content)
    refuses(file.parent, file, "damaged")


@pytest.mark.parametrize("content", ["", "[]", '{"hteration": 1}', "[" * 100_000])
def test_a_training_state_that_makes_no_sense_is_damaged(content, save):
    folder = save()
    (folder / "training" / "state.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"training/state\.json is damaged"):
        load_training_state(folder)


WRONG = ("x", "", None, True, -1, 0.5, 2**70, 1e300, float("nan"), float("inf"), [], [1], {}, {"a": 1}, {"folder": "x"})


@pytest.mark.parametrize("key", TrainingState.model_fields)
def test_a_value_of_the_wrong_kind_in_the_training_state_is_refused_by_name_or_means_something(key, save):
    folder = save()
    file = folder / "training" / "state.json"
    refusals = []
    for value in WRONG:
        edit(file, **{key: value})
        try:
            state = load_training_state(folder).state
            assert str(getattr(state, key)) == str(value) or getattr(state, key) == value
        except CheckpointError as error:
            refusals.append(str(error))
    assert len(refusals) >= 8
    assert all(refusal.startswith(f"{file} is damaged: {key}") for refusal in refusals)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"settings": {"n_layer": "x"}}, "settings.n_layer is 'x', expected a whole number"),
        ({"settings": {"device": 3}}, "settings.device is 3, expected text"),
        ({"settings": {"learning_rate": [1]}}, "settings.learning_rate is [1], expected a number"),
        ({"settings": {"init_from": None}}, "settings.init_from is None, expected text"),
        ({"rollbacks": [{"iteration": 3}]}, "rollbacks.0.back_to is missing"),
        ({"rollbacks": [{"iteration": 3, "back_to": 2, "reason": 1, "windows": []}]}, "rollbacks.0.reason is 1"),
        ({"base": {"folder": "x"}}, "base.sha256 is missing"),
        ({"losses_at_start": {"val": 1.0}}, "losses_at_start.replay is missing"),
        ({"scaler": {"scale": 2.0}}, "scaler.growth_factor is missing"),
    ],
)
def test_a_wrong_value_inside_the_training_state_is_named(changes, said, save):
    folder = save()
    edit(folder / "training" / "state.json", **changes)
    with pytest.raises(CheckpointError, match=re.escape(f"state.json is damaged: {said}")):
        load_training_state(folder)


def test_a_training_state_of_another_iteration_than_its_checkpoint_is_refused(save):
    folder = save(7)
    edit(folder / "training" / "state.json", iteration=5)
    with pytest.raises(
        CheckpointError, match="iteration is 5, expected 7, because the checkpoint is named iter-000007"
    ):
        load_training_state(folder)


def test_a_setting_that_this_version_does_not_know_is_left_alone(save):
    folder = save()
    edit(folder / "training" / "state.json", settings={"n_layer": 3, "of_a_later_version": [1]})
    assert load_training_state(folder).state.settings["of_a_later_version"] == [1]
