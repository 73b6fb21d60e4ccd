"""End of text: it stands after each document, is learnt like any other token, and is measured like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from quillgpt.config import TrainSettings
from quillgpt.data.batches import WindowOrder, all_offsets, gather
from quillgpt.data.dataset import Dataset
from quillgpt.data.prepare import prepare
from quillgpt.evaluation import mean_loss, score_split
from quillgpt.training.cuda_graph import make_step
from quillgpt.training.start.setup import set_up
from tiny import GPT2, randomize, tiny_model

DOCUMENTS = [f"Story {number} is {'very ' * (number % 5)}short.\n" for number in range(60)]
SETTINGS: dict[str, Any] = {
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 32,
    "block_size": 16,
    "batch_size": 8,
    "gradient_accumulation_steps": 1,
    "grad_clip": 0.0,
    "device": "cpu",
    "dtype": "float32",
    "compile": False,
    "attn_path": "explicit",
    "threads": 1,
}


@pytest.fixture(params=["byte", "bpe:300"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    folder = tmp_path / "stories"
    folder.mkdir()
    for number, text in enumerate(DOCUMENTS):
        (folder / f"{number:02d}.txt").write_text(text, encoding="utf-8")
    return prepare([str(folder)], data_dir=tmp_path / "data", tokenizer=request.param).dataset


def test_each_document_ends_with_the_id_in_both_splits(dataset: Dataset) -> None:
    found = []
    for tokens in (dataset.train, dataset.val):
        ids = np.array(tokens)
        *documents, rest = np.split(ids, np.flatnonzero(ids == dataset.tokenizer.end_of_text) + 1)
        assert rest.size == 0
        found += [dataset.tokenizer.decode(document[:-1]) for document in documents]
        assert len(documents) > 3
    assert sorted(found) == sorted(DOCUMENTS)


def check_is_counted(loss: float, losses: Tensor, ends: Tensor) -> None:
    """Check that a loss is the mean over all targets, which that over those besides the ends of texts is not."""
    assert 0 < ends.sum() < ends.numel()
    assert loss == pytest.approx(float(losses.mean()), rel=1e-5)
    assert abs(float(losses[~ends].mean()) - float(losses.mean())) > 1e-3


def test_it_is_a_target_like_any_other_in_training(dataset: Dataset, tmp_path: Path) -> None:
    places = {"data_dir": str(tmp_path / "data"), "out_dir": str(tmp_path / "out"), "dataset": "stories"}
    settings = TrainSettings(**(SETTINGS | places))
    run = set_up(settings)
    randomize(run.model)
    head = run.model.head
    head.weight = torch.nn.Parameter(
        head.weight.detach().clone()
    )  # apart from the embedding, whose gradient is another
    inputs, targets = gather(dataset.train, WindowOrder(len(dataset.train), 16, settings.seed).offsets(0, 8), 16)
    ends = targets == dataset.tokenizer.end_of_text
    with torch.no_grad():
        hidden = run.model(inputs).double()
        scores = hidden @ head.weight.double().T
    losses = scores.logsumexp(-1) - scores.gather(-1, targets[..., None])[..., 0]

    check_is_counted(float(make_step(run)(0, settings.learning_rate).loss), losses, ends)

    assert head.weight.grad is not None
    found = head.weight.grad[dataset.tokenizer.end_of_text].double()
    errors = scores.softmax(-1)[..., dataset.tokenizer.end_of_text] - ends.double()  # of the scores of end of text
    torch.testing.assert_close(found, (errors[..., None] * hidden).mean((0, 1)), rtol=1e-3, atol=1e-6)
    from_ends = (errors[..., None] * hidden)[ends].sum(0) / ends.numel()
    assert from_ends.norm() > 0.1 * found.norm()


def test_it_is_a_target_like_any_other_in_evaluation(dataset: Dataset) -> None:
    model = tiny_model(GPT2, vocab_size=dataset.tokenizer.vocab_size)
    starts = all_offsets(len(dataset.val), 16)
    inputs, targets = gather(dataset.val, starts, 16)
    with torch.no_grad():
        scores = model.logits(model(inputs)).double()
    losses = scores.logsumexp(-1) - scores.gather(-1, targets[..., None])[..., 0]
    ends = targets == dataset.tokenizer.end_of_text
    check_is_counted(mean_loss(model, dataset.val, starts, batch_size=3), losses, ends)
    check_is_counted(score_split(model, dataset.tokenizer, dataset.val, batch_size=3).loss, losses, ends)
