"""Whatever a tokenizer.json holds: a tokenizer that works, or one clear line."""

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tokenizers import Tokenizer as Engine
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from fuzzing import as_json, damage, fuzz, mutate, only_user_errors, randoms
from quillgpt.text.tokenizers.bpe import BytePairTokenizer
from quillgpt.text.tokenizers.byte import ByteTokenizer
from quillgpt.text.tokenizers.char import CharTokenizer
from quillgpt.text.tokenizers.tokenizer import load_tokenizer, tokenizer_from_spec

TEXT = "The dog's tail, the dog's bowl.\n Größe 漢字"


def foreign_bpe() -> dict[str, Any]:
    engine = Engine(models.BPE(unk_token="<unk>"))
    engine.normalizer = normalizers.Replace(" ", "▁")
    engine.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    engine.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=60, special_tokens=["<unk>", "</s>"]))
    return dict(json.loads(engine.to_str()))


def foreign_words() -> dict[str, Any]:
    engine = Engine(models.WordPiece(unk_token="[UNK]"))
    engine.pre_tokenizer = pre_tokenizers.Whitespace()
    engine.train_from_iterator([TEXT], trainers.WordPieceTrainer(vocab_size=60, special_tokens=["[UNK]"]))
    return dict(json.loads(engine.to_str()))


def foreign_unigram() -> dict[str, Any]:
    engine = Engine(models.Unigram())
    trainer = trainers.UnigramTrainer(vocab_size=40, unk_token="<unk>", special_tokens=["<unk>"])
    engine.train_from_iterator([TEXT], trainer)
    return dict(json.loads(engine.to_str()))


FAMILIES = {
    "char": lambda: CharTokenizer.from_text([TEXT])._content,
    "byte": lambda: ByteTokenizer()._content,
    "bpe": lambda: BytePairTokenizer.train([TEXT * 9], 270)._content,
    "foreign_bpe": foreign_bpe,
    "foreign_words": foreign_words,
    "foreign_unigram": foreign_unigram,
}


@pytest.fixture(scope="module", params=list(FAMILIES))
def content(request: pytest.FixtureRequest) -> dict[str, Any]:
    return FAMILIES[request.param]()


def use(folder: Path) -> None:
    """Load a folder's tokenizer and do with it all that a tokenizer can do."""
    with only_user_errors():
        tokenizer = load_tokenizer(folder)
        assert tokenizer.byte_lengths().shape == (tokenizer.vocab_size,)
        assert tokenizer.end_of_text is None or 0 <= tokenizer.end_of_text < tokenizer.vocab_size
        for encode in (tokenizer.encode, tokenizer.encode_prompt):
            with only_user_errors():
                tokenizer.decode(encode(TEXT)).encode("utf-8")
        with only_user_errors():
            tokenizer.decode([0, tokenizer.vocab_size - 1])
        tokenizer.save(folder / "again")
        assert load_tokenizer(folder / "again").fingerprint == tokenizer.fingerprint


@fuzz(100, random=randoms)
def test_a_changed_tokenizer(content: dict[str, Any], tmp_path: Path, random: Random) -> None:
    (tmp_path / "tokenizer.json").write_bytes(as_json(mutate(content, random)))
    use(tmp_path)


@fuzz(30, random=randoms)
def test_a_damaged_tokenizer(content: dict[str, Any], tmp_path: Path, random: Random) -> None:
    (tmp_path / "tokenizer.json").write_bytes(damage(as_json(content), random))
    use(tmp_path)
    with only_user_errors():
        tokenizer_from_spec(str(tmp_path / "tokenizer.json"))


CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": {"content": "</s>"}, "bos_token": "</s>"}


@fuzz(60, random=randoms)
def test_a_changed_tokenizer_config(tmp_path: Path, random: Random) -> None:
    (tmp_path / "tokenizer.json").write_bytes(as_json(foreign_bpe()))
    content = as_json(mutate(CONFIG, random))
    (tmp_path / "tokenizer_config.json").write_bytes(damage(content, random) if random.random() < 0.3 else content)
    use(tmp_path)
