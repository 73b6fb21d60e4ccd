"""Whatever happens to the files of a checkpoint: it is named, or changes nothing that is loaded."""

import json
import shutil
import struct
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fuzzing import as_json, check_message, damage, fuzz, mutate, only_user_errors, randoms
from quillgpt.checkpoint import TrainingState, load_model, load_training_state, save_checkpoint
from quillgpt.checkpoint.state import Rollback
from quillgpt.checkpoint.weights import open_tensors
from quillgpt.config.schema import TrainSettings
from quillgpt.errors import CheckpointError
from quillgpt.optim.optimizers import OPTIMIZERS, OptimizerSet, make_optimizers
from quillgpt.text.tokenizers.byte import ByteTokenizer
from tiny import CONFIGS, tiny_model

STATE = TrainingState(
    tokens=640,
    seconds=1.5,
    best_val_loss=2.5,
    best_iteration=1,
    settings={"n_layer": 1, "checkpoint_interval": "10m", "patience": None, "learning_rate": 0.001},
    rollbacks=[Rollback(iteration=3, back_to=2, reason="loss", windows=[1, 2])],
    losses_at_start={"val": 3.5, "replay": 2.5},
    base={"folder": "base", "sha256": "abc"},
    scaler={
        "scale": 2.0,
        "growth_factor": 2.0,
        "backoff_factor": 0.5,
        "growth_interval": 2000,
        "_growth_tracker": 3,
    },
)


@pytest.fixture(scope="module", params=list(CONFIGS))
def checkpoints(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two checkpoints of the same shape and of files of equal sizes, but with other weights."""
    run = tmp_path_factory.mktemp("run")
    optimizer = {"step": torch.tensor(3.0), "average": torch.arange(12.0).reshape(3, 4)}
    folders = []
    for iteration in (1, 2):
        model = tiny_model(
            CONFIGS[request.param], seed=iteration, vocab_size=257, n_layer=1, n_embd=16, head_dim=4, mlp_dim=16
        )
        state = STATE.model_copy(update={"iteration": iteration})
        about = {"dataset": "abc", "bias": model.config.bias}
        folders.append(
            save_checkpoint(
                run,
                model,
                ByteTokenizer(),
                about=about,
                optimizer=optimizer,
                state=state,
                raw_weights={"a": torch.arange(5.0) + iteration},
            )
        )
    return folders[0], folders[1]


@pytest.fixture(scope="module")
def contents(checkpoints: tuple[Path, Path]) -> list[dict[str, bytes]]:
    """All files of each checkpoint, as they were written."""
    return [
        {file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
        for folder in checkpoints
    ]


def loaded(folder: Path) -> tuple[Any, ...]:
    """Return everything that loading a checkpoint gives, so that two can be compared."""
    found = load_model(folder)
    stored = load_training_state(folder)
    assert stored.raw_weights is not None
    with torch.inference_mode():
        hidden = found.model(torch.arange(8)[None])
    weights = {name: tensor.numpy().tobytes() for name, tensor in found.model.state_dict().items()}
    tensors = [
        {name: (tensor.dtype, tensor.shape, tensor.numpy().tobytes()) for name, tensor in tensors.items()}
        for tensors in (stored.optimizer, stored.raw_weights)
    ]
    identity = found.model.config, found.config_json, found.tokenizer.fingerprint
    return *identity, weights, hidden.isnan().any(), tensors, stored.state


def check_is_noticed(folder: Path, files: dict[str, bytes], name: str, content: bytes, whole: tuple[Any, ...]) -> None:
    """Check that a file's new content is refused by the name of a file, or gives the same as before."""
    (folder / name).write_bytes(content)
    try:
        found = loaded(folder)
    except CheckpointError as error:
        message: str | None = check_message(str(error))
    else:
        message = None
        assert found == whole
    finally:
        (folder / name).write_bytes(files[name])
    assert message is None or str(folder) in message


@pytest.fixture(scope="module")
def whole(checkpoints: tuple[Path, Path]) -> tuple[Any, ...]:
    return loaded(checkpoints[0])


@fuzz(300, random=randoms)
def test_one_flipped_bit(checkpoints: Any, contents: Any, whole: Any, random: Random) -> None:
    name = random.choice(list(contents[0]))
    content = bytearray(contents[0][name])
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    check_is_noticed(checkpoints[0], contents[0], name, bytes(content), whole)


@fuzz(120, random=randoms)
def test_any_damage(checkpoints: Any, contents: Any, whole: Any, random: Random) -> None:
    name = random.choice(list(contents[0]))
    check_is_noticed(checkpoints[0], contents[0], name, damage(contents[0][name], random), whole)


@fuzz(60, random=randoms)
def test_files_that_change_places(checkpoints: Any, contents: Any, whole: Any, random: Random) -> None:
    name, other = random.choice(list(contents[0])), random.choice(list(contents[0]))
    check_is_noticed(checkpoints[0], contents[0], name, random.choice(contents)[other], whole)


@fuzz(150, random=randoms)
def test_a_changed_manifest(checkpoints: Any, contents: Any, random: Random) -> None:
    manifest = as_json(mutate(json.loads(contents[0]["manifest.json"]), random))
    (checkpoints[0] / "manifest.json").write_bytes(manifest)
    try:
        with only_user_errors():
            loaded(checkpoints[0])
    finally:
        (checkpoints[0] / "manifest.json").write_bytes(contents[0]["manifest.json"])


# Without a manifest nothing tells that a file was changed: such folders come from other programs, and from edits.


@pytest.fixture(scope="module")
def foreign(checkpoints: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("foreign")
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(checkpoints[0] / name, folder / name)
    return folder


def check_foreign(folder: Path, name: str, content: bytes) -> None:
    before = (folder / name).read_bytes()
    (folder / name).write_bytes(content)
    try:
        with only_user_errors():
            found = load_model(folder)
            with torch.inference_mode():
                found.model(torch.zeros(1, 1, dtype=torch.int64))
    finally:
        (folder / name).write_bytes(before)


@fuzz(200, random=randoms)
def test_a_changed_config(foreign: Path, random: Random) -> None:
    check_foreign(foreign, "config.json", as_json(mutate(json.loads((foreign / "config.json").read_bytes()), random)))


@fuzz(60, random=randoms)
def test_a_damaged_config(foreign: Path, random: Random) -> None:
    check_foreign(foreign, "config.json", damage((foreign / "config.json").read_bytes(), random))


@fuzz(80, random=randoms)
def test_a_changed_header_of_the_weights(foreign: Path, random: Random) -> None:
    content = (foreign / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header, tensors = json.loads(content[8 : 8 + size]), content[8 + size :]
    changed = as_json(mutate(header, random))
    check_foreign(foreign, "model.safetensors", struct.pack("<Q", len(changed)) + changed + tensors)
    check_foreign(foreign, "model.safetensors", damage(content[: 8 + size], random) + tensors)


@fuzz(60, random=randoms)
def test_a_changed_index(foreign: Path, random: Random) -> None:
    index = {"metadata": {"total_size": 1}, "weight_map": {"a": "model.safetensors", "b": "other.safetensors"}}
    path = foreign / "model.safetensors.index.json"
    path.write_text("{}")
    content = as_json(mutate(index, random))
    check_foreign(foreign, path.name, damage(content, random) if random.random() < 0.3 else content)
    path.unlink()


@fuzz(150, random=randoms)
def test_a_changed_state(checkpoints: Any, contents: Any, random: Random) -> None:
    name = random.choice(
        ["training/state.json"] * 2 + ["training/optimizer.safetensors", "training/weights.safetensors"]
    )
    content = contents[0][name]
    if name.endswith(".json") and random.random() < 0.7:
        content = as_json(mutate(json.loads(content), random))
    else:
        content = damage(content, random)
    (checkpoints[0] / name).write_bytes(content)
    try:
        with only_user_errors():
            stored = load_training_state(checkpoints[0])
            dict(stored.optimizer), dict(stored.raw_weights or {})
    finally:
        (checkpoints[0] / name).write_bytes(contents[0][name])


# What has a valid hash may still not fit: a person may have written it.


@pytest.fixture(scope="module", params=OPTIMIZERS)
def trained(request: pytest.FixtureRequest, checkpoints: Any) -> tuple[Any, Path]:
    """Optimizers after a step, and their state as a file of its own."""
    model = load_model(checkpoints[0]).model
    optimizers = make_optimizers(model, TrainSettings(optimizer=request.param))
    step(optimizers)
    file = checkpoints[0].parent / "optimizer.safetensors"
    save_file(optimizers.state(), file)
    return optimizers, file


def step(optimizers: OptimizerSet) -> None:
    for optimizer in optimizers.optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.ones_like(parameter)
    optimizers.step(torch.amp.GradScaler("cpu", enabled=False))


def misfit(tensor: torch.Tensor, random: Random) -> torch.Tensor:
    """Return a tensor of another shape or type, or with other values, than its optimizer needs."""
    match random.choice(("cut", "flat", "longer", "deeper", "turned", "type", "values")):
        case "cut":
            return tensor.flatten()[: random.randrange(tensor.numel() + 1)]
        case "flat":
            return tensor.flatten()
        case "longer":
            return torch.cat([tensor.flatten(), torch.zeros(random.choice((1, 1000)))])
        case "deeper":
            return tensor.view([1] * random.choice((1, 7, 40)) + list(tensor.shape))
        case "turned":
            return tensor.T if tensor.ndim == 2 else tensor[None]
        case "type":
            return tensor.to(random.choice((torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool)))
    return torch.full_like(tensor, random.choice((float("nan"), float("inf"), -1.0, 0.0, 1e38, 1e-45)))


@fuzz(100, random=randoms)
def test_an_optimizers_state_that_does_not_fit(trained: Any, random: Random) -> None:
    optimizers, file = trained
    state = load_file(file)
    for name in random.sample(sorted(state), random.randint(1, 3)):
        state[random.choice((name, name, name, *state))] = misfit(state[name], random)
    other = file.with_name("other.safetensors")
    save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, other)
    with only_user_errors():
        optimizers.load_state(open_tensors(other))
        step(optimizers)


@fuzz(100, random=randoms)
def test_a_changed_header_of_an_optimizers_state(trained: Any, random: Random) -> None:
    optimizers, file = trained
    content = file.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = as_json(mutate(json.loads(content[8 : 8 + size]), random))
    other = file.with_name("other.safetensors")
    other.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + size :])
    with only_user_errors():
        optimizers.load_state(open_tensors(other))
        step(optimizers)
