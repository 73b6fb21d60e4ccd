"""Quill writes the same files as nanoGPT's prepare.py scripts."""

import numpy as np
import pytest
import tiktoken

from quillgpt.bench.prepare import put_tiktoken_files
from quillgpt.data.prepare import prepare
from quillgpt.files import sha256_of
from quillgpt.text.sources.downloads import TINY_SHAKESPEARE

# What nanoGPT's own data/shakespeare_char/prepare.py and data/shakespeare/prepare.py write.
NANOGPT_FILES = {
    "shakespeare_char": (
        (1_003_854, "6ec305602a99ac2802745a134e1f5e33e2231b4855525b00b9aebb730ac2626f"),
        (111_540, "d37d30cc0c8327c270d493299c3dca54135f6d5f1c9ef60cda78076e311204b1"),
    ),
    "shakespeare": (
        (301_966, "502a2bdc8210d1ac5d5674867cb74467dd31db575d25cf6dbb08c8bdbea8680f"),
        (36_059, "68a53422394c26a655ebe641f5c6f49888e8f4e45fe5d6f02abda63ba3ebd65b"),
    ),
}


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


@pytest.mark.download
@pytest.mark.parametrize("recipe", NANOGPT_FILES)
def test_tiny_shakespeare_is_nanogpts_byte_for_byte(recipe, data_dir, published, gpt2_files):
    text = published(TINY_SHAKESPEARE).read_text()
    dataset = prepare([recipe], data_dir=data_dir, chunk_characters=70_000).dataset
    for file, tokens, expected in zip(
        ("train", "val"), (dataset.train, dataset.val), NANOGPT_FILES[recipe], strict=True
    ):
        assert (len(tokens), sha256_of(data_dir / recipe / f"{file}.bin")) == expected
    assert dataset.tokenizer.vocab_size == {"shakespeare_char": 65, "shakespeare": 50257}[recipe]
    if recipe == "shakespeare_char":
        ids = {character: number for number, character in enumerate(sorted(set(text)))}
        whole = np.array([ids[character] for character in text], dtype=np.uint16)
        assert np.array_equal(dataset.train, whole[: int(len(text) * 0.9)])
        assert np.array_equal(dataset.val, whole[int(len(text) * 0.9) :])


@pytest.mark.download
def test_documents_have_the_layout_of_nanogpts_openwebtext(tmp_path, data_dir, gpt2_files, monkeypatch):
    """Each split is encode_ordinary of every document and the end of text, as in data/openwebtext/prepare.py.

    Which documents are held out differs: nanoGPT draws them by the datasets library, Quill by what they hold.
    """
    put_tiktoken_files(tmp_path / "tiktoken")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "tiktoken"))
    their = tiktoken.get_encoding("gpt2")
    texts = {"a": "It's a <|endoftext|> in\u00a0text. \n", "b": "\n 'Tis 漢字  ", "c": " Held out,\u3000they'll"}
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    given = [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]
    dataset = prepare(given, data_dir=data_dir, tokenizer="gpt2", val=str(tmp_path / "c.txt")).dataset
    expected = {name: [*their.encode_ordinary(text), their.eot_token] for name, text in texts.items()}
    assert (dataset.folder / "train.bin").read_bytes() == np.array(expected["a"] + expected["b"], np.uint16).tobytes()
    assert (dataset.folder / "val.bin").read_bytes() == np.array(expected["c"], np.uint16).tobytes()
