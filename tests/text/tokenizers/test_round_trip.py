import json

from tokenizers import Tokenizer as Engine
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from quillgpt.data.prepare import prepare
from quillgpt.text.tokenizers.round_trip import describe_lost_text, lost_text
from quillgpt.text.tokenizers.tokenizer_json import HuggingFaceTokenizer

TEXT = "Déjà vu, l'été à Orléans est très beau.\n" * 60


def byte_level(*, accents):
    engine = Engine(models.BPE())
    if not accents:
        engine.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    engine.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    engine.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=300, show_progress=False, initial_alphabet=alphabet)
    )
    return json.loads(engine.to_str())


def words_only():
    engine = Engine(models.WordLevel(unk_token="[UNK]"))
    engine.pre_tokenizer = pre_tokenizers.Whitespace()
    engine.train_from_iterator(
        ["the quick fox"], trainers.WordLevelTrainer(show_progress=False, special_tokens=["[UNK]"])
    )
    return json.loads(engine.to_str())


def test_a_tokenizer_that_gives_all_back_loses_nothing_though_it_adds_a_space():
    tokenizer = HuggingFaceTokenizer(byte_level(accents=True))
    assert lost_text(tokenizer, [TEXT, "x"]) is None
    assert lost_text(tokenizer, []) is None


def test_lost_accents_are_named_with_an_example():
    tokenizer = HuggingFaceTokenizer(byte_level(accents=False), name="plain.json")
    loss = lost_text(tokenizer, ["nothing", TEXT])
    assert loss is not None
    assert loss.missing[0] == "é"
    assert 0.1 < loss.share < 0.3
    said = describe_lost_text(tokenizer, loss)
    assert "the tokenizer plain.json does not give the text back" in said
    assert "'é'" in said
    assert "Deja vu, l'ete" in said


def test_text_that_becomes_unknown_tokens_is_lost():
    loss = lost_text(HuggingFaceTokenizer(words_only()), [TEXT])
    assert loss is not None
    assert loss.share > 0.9


def test_preparing_with_a_tokenizer_that_loses_text_says_so(tmp_path, capsys):
    (tmp_path / "text.txt").write_text(TEXT)
    for name, content, loses in (("a", byte_level(accents=False), True), ("b", byte_level(accents=True), False)):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        prepare([str(tmp_path / "text.txt")], data_dir=tmp_path / name, tokenizer=str(path))
        assert ("does not give the text back" in capsys.readouterr().err) == loses
