"""Peers are run as their own scripts run them: same configuration, same batches, same loss."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from quillgpt.bench import nanogpt_peer, transformers_peer
from quillgpt.bench.peer_step import PeerStep
from quillgpt.bench.peers import Candidate, read_peers
from quillgpt.checkpoint.tensors import to_stored
from quillgpt.errors import ConfigError, UserError


def test_peers_are_read_in_the_order_given() -> None:
    assert read_peers(["transformers", "nanogpt=/some/where"]) == [
        Candidate("transformers"),
        Candidate("nanogpt", Path("/some/where")),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["llama"], "expected nanogpt=PATH or transformers"),
        (["nanogtp=x"], "did you mean nanogpt"),
        (["nanogpt"], "expected nanogpt=PATH, the folder"),
        (["transformers=x"], "takes no path"),
        (["transformers", "transformers"], "given twice"),
    ],
)
def test_a_peer_that_cannot_be_meant_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_peers(words)


def test_a_missing_checkout_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.py does not exist"):
        nanogpt_peer.make_model(tmp_path / "nowhere", tiny.GPT2, 0.0)


@pytest.mark.parametrize(
    ("code", "complaint"), [("import gone_package", "cannot be imported"), ("x = 1", "has no GPT and no GPTConfig")]
)
def test_a_folder_of_another_program_is_named(tmp_path: Path, code: str, complaint: str) -> None:
    (tmp_path / "model.py").write_text(code)
    with pytest.raises(UserError, match=rf"model\.py {complaint}.*; give the folder of a nanoGPT checkout"):
        nanogpt_peer.import_model(tmp_path)


def test_nanogpt_is_not_asked_for_what_it_cannot_be(checkout: Path) -> None:
    with pytest.raises(UserError, match="no arch = qwen3"):
        nanogpt_peer.make_model(checkout, tiny.QWEN3, 0.0)


def test_what_nanogpt_prints_stays_out_of_the_results(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nanogpt_peer.make_model(checkout, tiny.GPT2, 0.0)
    assert capsys.readouterr().out == ""


def test_a_missing_package_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="pip install"):
        transformers_peer.make_model(tiny.GPT2, 0.0)


@pytest.mark.parametrize(
    "config", [*tiny.CONFIGS.values(), replace(tiny.GPT2, bias=False)], ids=["gpt2", "qwen3", "bare"]
)
def test_the_transformers_model_has_our_shape_and_loss(config: Any) -> None:
    pytest.importorskip("transformers")
    ours, theirs = tiny.tiny_model(config), transformers_peer.make_model(config, 0.0)
    biases = (
        0
        if config.bias or config.arch == "qwen3"
        else sum(value.numel() for name, value in theirs.named_parameters() if name.endswith("bias"))
    )
    assert theirs.num_parameters() == ours.parameter_count() + biases
    theirs.load_state_dict(to_stored(ours.state_dict(), config), strict=False)
    inputs, targets = tiny.random_ids(config, 2, 16), tiny.random_ids(config, 2, 16, seed=1)
    expected = ours.loss_sum(inputs, targets) / targets.numel()
    torch.testing.assert_close(transformers_peer.loss_of(theirs.eval(), inputs, targets), expected)


def test_transformers_samples_within_its_context_only() -> None:
    transformers_peer.check_context(tiny.GPT2, 16)
    with pytest.raises(UserError, match="--max_new_tokens=16"):
        transformers_peer.check_context(tiny.GPT2, 17)


def test_a_peer_trains_on_the_whole_batch_whatever_its_micro_steps() -> None:
    inputs, targets = tiny.random_ids(tiny.GPT2, 4, 16), tiny.random_ids(tiny.GPT2, 4, 16, seed=1)

    def weight_after(batch_size: int) -> torch.Tensor:
        model = tiny.tiny_model().double()
        step = PeerStep(
            model,
            loss_of=mean_loss,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            batch_size=batch_size,
            device=torch.device("cpu"),
        )
        step(inputs, targets)
        return model.token_embedding.weight.detach()

    mean_loss: Callable[..., torch.Tensor] = lambda model, x, y: model.loss_sum(x, y) / y.numel()  # noqa: E731
    torch.testing.assert_close(weight_after(1), weight_after(4), rtol=1e-4, atol=1e-6)
    assert not torch.equal(weight_after(4), tiny.tiny_model().double().token_embedding.weight)
