import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Engine
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from quillgpt.errors import TokenizerError
from quillgpt.files import sha256_of
from quillgpt.text.sources.downloads import GPT2_MERGES, GPT2_VOCABULARY
from quillgpt.text.tokenizers.bpe import GPT2_FINGERPRINT, BytePairTokenizer
from quillgpt.text.tokenizers.byte import ByteTokenizer
from quillgpt.text.tokenizers.char import CharTokenizer
from quillgpt.text.tokenizers.gpt2 import GPT2_SAVED_SHA256, gpt2_tokenizer
from quillgpt.text.tokenizers.tokenizer import Tokenizer, load_tokenizer, tokenizer_from_spec
from quillgpt.text.tokenizers.tokenizer_files import tokenizer_fingerprint
from quillgpt.text.tokenizers.tokenizer_json import HuggingFaceTokenizer
from quillgpt.text.tokenizers.words import last_cut_of_gpt2

END = "<|endoftext|>"
WHITESPACE = " \n\t\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\u00a0\u1680\u2003\u2028\u2029\u3000"
TEXTS = [
    "",
    " ",
    "  leading and trailing  ",
    "many     spaces\t\ttabs \t mixed",
    "\n\nlines\n \n\nmore\r\nWindows\rold Mac\n",
    "I'll say it's they're 'quoted' IT'S\n",
    "Größe naïve Ελληνικά Русский עברית العربية हिन्दी ไทย 漢字かな交じり文 한국어",
    "e\u0301 a\u0308 \u200d👩\u200d👩\u200d👧 🇩🇪 😀\U0001f9d1\U0001f3fd",
    "1234567890 x=3.14; foo_bar(baz) {} <html>",
    "control \x00\x01\x1c\x1f\x7f\x85 nbsp\u00a0here\u3000\u2028end \ufeff mark \ufffd",
    WHITESPACE * 2,
    f"a literal {END} inside{END}",
    "hello world . , ! 's ' s do n't",
]
TRAINING = "".join(TEXTS) * 3 + "the quick brown fox  jumps\n\n  over the lazy dog's back. \n \n" * 20


def foreign_content():
    engine = Engine(models.BPE(unk_token="<unk>", byte_fallback=True))
    engine.normalizer = normalizers.Sequence([normalizers.Replace(" ", "▁")])
    engine.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()],
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    engine.train_from_iterator(
        [TRAINING], trainers.BpeTrainer(vocab_size=700, special_tokens=special[:3] + special[3:])
    )
    content = json.loads(engine.to_str())
    content["added_tokens"] = [entry for entry in content["added_tokens"] if entry["id"] < 3]
    return content


def build(kind):
    if kind == "char":
        return CharTokenizer.from_text([TRAINING])
    if kind == "byte":
        return ByteTokenizer()
    if kind == "bpe":
        return BytePairTokenizer.train([TRAINING], 400)
    if kind == "foreign":
        return HuggingFaceTokenizer(foreign_content())
    return gpt2_tokenizer()


@pytest.fixture(params=["char", "byte", "bpe", "foreign", pytest.param("gpt2", marks=pytest.mark.download)])
def tokenizer(request):
    if request.param == "gpt2":
        request.getfixturevalue("gpt2_files")
    return build(request.param)


@pytest.fixture(scope="module")
def trained():
    return build("bpe")


def test_every_kind_keeps_the_protocol_and_every_text(tokenizer):
    assert isinstance(tokenizer, Tokenizer)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert ids.dtype == np.uint32
        assert tokenizer.decode(ids) == text
        assert ids.size == 0 or ids.max() < tokenizer.vocab_size
        assert tokenizer.end_of_text is None or tokenizer.end_of_text not in ids
        assert tokenizer.byte_lengths()[ids].sum() == len(text.encode())
    assert tokenizer.byte_lengths().shape == (tokenizer.vocab_size,)


def test_every_kind_is_the_same_after_saving_and_in_autotokenizer(tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert type(again) is type(tokenizer)
    assert (again.name, again.vocab_size) == (tokenizer.name, tokenizer.vocab_size)
    assert (again.end_of_text, again.fingerprint) == (tokenizer.end_of_text, tokenizer.fingerprint)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(theirs) == tokenizer.vocab_size
    assert theirs.eos_token_id == tokenizer.end_of_text
    for text in TEXTS:
        ids = tokenizer.encode(text).tolist()
        assert again.encode(text).tolist() == ids
        # `encode` takes a special token in a text as text; transformers calls this split_special_tokens.
        assert theirs(text, split_special_tokens=True)["input_ids"] == ids
        assert theirs(text)["input_ids"] == tokenizer.encode_prompt(text)
        assert theirs.decode(ids) == text


def test_a_stock_gpt2_folder_with_our_files_still_gives_our_ids(tmp_path, trained):
    transformers = pytest.importorskip("transformers")
    trained.save(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "  the quick\n\n brown  fox's "
    assert theirs(text)["input_ids"] == trained.encode(text).tolist()
    assert theirs.decode(trained.encode(text).tolist()) == text


def test_what_transformers_saves_of_our_tokenizer_is_ours(tmp_path, trained):
    transformers = pytest.importorskip("transformers")
    trained.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    model = json.loads((tmp_path / "tokenizer.json").read_text())["model"]
    stock = transformers.GPT2Tokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])
    for number, saved in enumerate((theirs, stock)):
        saved.save_pretrained(tmp_path / str(number))
        again = load_tokenizer(tmp_path / str(number))
        assert (type(again), again.fingerprint) == (type(trained), trained.fingerprint)


def test_a_template_that_adds_tokens_is_not_taken_for_gpt2s(tmp_path, trained):
    trained.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    end = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    special = {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [trained.end_of_text], "tokens": ["<|endoftext|>"]}}
    template = {"type": "TemplateProcessing", "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}]}
    for single, ours in (([text], True), ([text, end], False)):
        path.write_text(
            json.dumps(content | {"post_processor": template | {"single": single, "special_tokens": special}})
        )
        assert isinstance(load_tokenizer(tmp_path), BytePairTokenizer) is ours


def test_char_is_nanogpts():
    text = "hello\nWörld 漢\t\U0001f600"
    tokenizer = CharTokenizer.from_text([text[:5], text[5:]])
    expected = {character: token for token, character in enumerate(sorted(set(text)))}
    assert tokenizer.encode(text).tolist() == [expected[character] for character in text]
    assert tokenizer.end_of_text is None
    assert tokenizer.encode_prompt("hell") == [expected[character] for character in "hell"]


@pytest.mark.parametrize(
    ("character", "code"), [("z", "U+007A"), ("😀", "U+1F600"), ("\r", "U+000D"), ("\u0000", "U+0000")]
)
def test_a_character_that_char_lacks_is_named_and_never_dropped(tmp_path, character, code):
    transformers = pytest.importorskip("transformers")
    tokenizer = CharTokenizer("ab \n")
    with pytest.raises(TokenizerError) as caught:
        tokenizer.encode(f"a b{character}")
    for expected in (repr(character), code, "4 characters", "--tokenizer byte"):
        assert expected in str(caught.value)
    tokenizer.save(tmp_path)
    with pytest.raises(Exception, match="Missing"):
        transformers.AutoTokenizer.from_pretrained(tmp_path)(f"a b{character}")


@pytest.mark.parametrize("tokenizer", ["byte", "bpe", pytest.param("gpt2", marks=pytest.mark.download)], indirect=True)
def test_a_prompts_literal_end_of_text_is_its_id(tokenizer):
    ids = tokenizer.encode_prompt(f"{END}the dog{END}")
    assert ids == [tokenizer.end_of_text, *tokenizer.encode("the dog"), tokenizer.end_of_text]
    assert tokenizer.decode(ids) == f"{END}the dog{END}"
    assert tokenizer.byte_lengths()[tokenizer.end_of_text] == 0


def test_bytes_that_are_no_whole_character_become_a_replacement(trained):
    for tokenizer in (ByteTokenizer(), trained):
        single = {bytes_of: token for token, bytes_of in enumerate(tokenizer_bytes(tokenizer))}
        assert tokenizer.decode([single[b"a"], single[b"\xe2"], single[b"\x82"]]) == "a\ufffd"
        assert tokenizer.decode([single[b"\xff"], single[b"b"]]) == "\ufffdb"
        assert tokenizer.encode("a\ud800b").tolist() == tokenizer.encode("a\ufffdb").tolist()


def tokenizer_bytes(tokenizer):
    if isinstance(tokenizer, ByteTokenizer):
        return [bytes([byte]) for byte in range(256)]
    return [token for token, _ in sorted(tokenizer._ranks.items(), key=lambda item: item[1])]


def test_ids_that_the_tokenizer_lacks_are_an_error(tokenizer):
    for wrong in (-1, tokenizer.vocab_size):
        with pytest.raises(TokenizerError, match=f"{wrong} is outside"):
            tokenizer.decode([0, wrong])


def test_bpe_is_trained_alike_from_the_same_text_however_it_is_cut(trained):
    assert (trained.name, trained.vocab_size, trained.end_of_text) == ("bpe:400", 400, 399)
    for size in (1, 7, 64):
        pieces = [TRAINING[start : start + size] for start in range(0, len(TRAINING), size)]
        assert BytePairTokenizer.train(pieces, 400).fingerprint == trained.fingerprint
    assert BytePairTokenizer.train([TRAINING], 399).fingerprint != trained.fingerprint
    assert len(trained.encode("the quick brown fox")) < 10


def test_bpe_of_a_small_text_reaches_what_it_can_and_says_so(capsys):
    tokenizer = BytePairTokenizer.train(["aab aab"], 5000)
    assert 257 < tokenizer.vocab_size < 262
    assert tokenizer.end_of_text == tokenizer.vocab_size - 1
    assert f"bpe:{tokenizer.vocab_size}" in capsys.readouterr().err
    assert BytePairTokenizer.train(["xyz"], 257).encode("xyz").size == 3
    with pytest.raises(TokenizerError, match="bpe:256 is too small"):
        BytePairTokenizer.train(["xyz"], 256)


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet=st.sampled_from(WHITESPACE + "aabt'hes1é漢.😀\x1c"), max_size=40))
def test_tiktoken_and_tokenizers_agree_on_trained_merges(trained, text):
    theirs = Engine.from_str(json.dumps(trained._content))
    theirs.encode_special_tokens = True
    assert theirs.encode(text, add_special_tokens=False).ids == trained.encode(text).tolist()


def test_white_space_of_the_pattern_is_white_space_of_python():
    """The proof of last_cut_of_gpt2 needs that all white space of the pattern is white space of str.isspace."""
    from tokenizers import Regex

    everything = "".join(chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000)
    ranks = {bytes([byte]): byte for byte in range(256)}
    tiktokens = tiktoken.Encoding("white", pat_str=r"\s", mergeable_ranks=ranks, special_tokens={})
    white_space = set(tiktokens.decode(tiktokens.encode_ordinary(everything)))
    assert {" ", "\n"} <= white_space <= {character for character in everything if character.isspace()}
    split = pre_tokenizers.Split(Regex(r"\S+"), "removed")
    assert {c for piece, _ in split.pre_tokenize_str(everything) for c in piece} == white_space


def test_a_cut_within_white_space_would_change_ids(trained):
    """This shows that the test below can fail."""
    whole = trained.encode("dog  over").tolist()
    assert [*trained.encode("dog ").tolist(), *trained.encode(" over").tolist()] == whole
    assert [*trained.encode("dog  ").tolist(), *trained.encode("over").tolist()] != whole
    assert last_cut_of_gpt2("dog  over") == 3
    assert last_cut_of_gpt2("dog") == last_cut_of_gpt2(" dog") == last_cut_of_gpt2("\x1c dog") == 0
    assert last_cut_of_gpt2("a b" + "x" * 10_000) == 1


@settings(max_examples=500, deadline=None)
@given(text=st.text(alphabet=st.sampled_from(WHITESPACE + "  \n\nadght'sl1é漢.😀"), max_size=40))
def test_every_safe_cut_leaves_the_ids_as_they_are(trained, text):
    whole = trained.encode(text).tolist()
    for end in range(len(text) + 1):
        cut = last_cut_of_gpt2(text[:end])
        assert [*trained.encode(text[:cut]).tolist(), *trained.encode(text[cut:]).tolist()] == whole


@pytest.mark.download
@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet=st.sampled_from(WHITESPACE + "  \n\nadght'sl1é漢.😀"), max_size=40))
def test_every_safe_cut_of_gpt2_leaves_the_ids_as_they_are(published_gpt2, text):
    whole = published_gpt2.encode(text).tolist()
    cut = last_cut_of_gpt2(text)
    assert [*published_gpt2.encode(text[:cut]).tolist(), *published_gpt2.encode(text[cut:]).tolist()] == whole


@pytest.fixture(scope="module")
def published_gpt2(published):
    published(GPT2_MERGES)
    published(GPT2_VOCABULARY)
    return gpt2_tokenizer()


@pytest.mark.download
def test_gpt2_has_its_known_ids_and_needs_no_download_once_saved(published_gpt2, tmp_path, monkeypatch):
    assert published_gpt2.encode("Hello world").tolist() == [15496, 995]
    assert (published_gpt2.vocab_size, published_gpt2.end_of_text, published_gpt2.name) == (50257, 50256, "gpt2")
    published_gpt2.save(tmp_path)
    monkeypatch.setenv("QUILL_HOME", str(tmp_path / "nothing"))
    monkeypatch.delenv("QUILL_MIRROR", raising=False)
    assert load_tokenizer(tmp_path).encode("Hello world").tolist() == [15496, 995]


@pytest.mark.download
def test_the_constants_of_gpt2_are_right(published_gpt2, tmp_path):
    assert tokenizer_fingerprint(published_gpt2._content) == GPT2_FINGERPRINT
    published_gpt2.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    assert sha256_of(path) == GPT2_SAVED_SHA256
    known = load_tokenizer(tmp_path)
    path.write_text(path.read_text(encoding="utf-8") + " ", encoding="utf-8")
    looked_at = load_tokenizer(tmp_path)
    for tokenizer in (known, looked_at):
        assert (tokenizer.name, tokenizer.fingerprint) == ("gpt2", GPT2_FINGERPRINT)
        assert tokenizer._ranks == published_gpt2._ranks
        assert json.dumps(tokenizer._content) == json.dumps(published_gpt2._content)


@pytest.mark.download
def test_the_hubs_spelling_of_gpt2_is_recognised(published_gpt2, tmp_path):
    published_gpt2.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    model = content["model"]
    content["model"] = {
        "dropout": None,
        "unk_token": "",
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": False,
        "vocab": model["vocab"],
        "merges": [" ".join(pair) for pair in model["merges"]],
    }
    content["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    content["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False}
    content["decoder"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    content["added_tokens"][0]["normalized"] = True
    path.write_text(json.dumps(content), encoding="utf-8")
    assert load_tokenizer(tmp_path).fingerprint == published_gpt2.fingerprint


def test_a_changed_file_of_ours_is_not_taken_for_ours(tmp_path, trained):
    trained.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["pre_tokenizer"]["add_prefix_space"] = True
    path.write_text(json.dumps(content), encoding="utf-8")
    loaded = load_tokenizer(tmp_path)
    assert isinstance(loaded, HuggingFaceTokenizer)
    assert loaded.end_of_text == trained.end_of_text
    assert loaded.encode("dog").tolist() == trained.encode(" dog").tolist()


def test_the_end_of_a_given_tokenizer_is_what_its_config_says(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(foreign_content()), encoding="utf-8")
    assert load_tokenizer(tmp_path).end_of_text == 2
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<s>"}}))
    assert load_tokenizer(tmp_path).end_of_text == 1
    assert tokenizer_from_spec(str(tmp_path)).fingerprint == load_tokenizer(tmp_path).fingerprint
    assert tokenizer_from_spec(str(tmp_path / "tokenizer.json")).end_of_text == 1


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("chr", "did you mean char"),
        ("bpe", "bpe:1024"),
        ("bpe:x", "bpe:1024"),
        ("gpt3", "did you mean gpt2"),
        ("nowhere/tokenizer.json", "is no tokenizer"),
        ("bpe:100", "257"),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones(spec, words):
    with pytest.raises(TokenizerError) as caught:
        tokenizer_from_spec(spec, ["text"])
    assert words in str(caught.value)


def test_damaged_tokenizer_files_are_named(tmp_path):
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)
    for content in ("{", "[]", '{"model": {}}', '{"model": {"type": "BPE", "vocab": {}, "merges": []}}'):
        Path(tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
            load_tokenizer(tmp_path)


def test_an_id_beyond_every_number_of_the_machine_is_an_error(trained):
    with pytest.raises(TokenizerError, match=f"token id {2**63} is outside"):
        trained.decode([2**63])


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        '{"model": "x"}',
        '{"model": {"type": "WordLevel", "vocab": {"a": 0, "b": "c"}}}',
        '{"model": {"vocab": {}, "merges": [3]}, "decoder": 3, "pre_tokenizer": []}',
    ],
)
def test_a_file_without_the_structure_of_a_tokenizer_is_named(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_an_end_that_is_no_text_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(foreign_content()), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": ["<s>"]}')
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json: eos_token is no token"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "change", [{"continuing_subword_prefix": "a" * 300}, {"merges": [["d", "o"], ["Q", "Q"]]}, {"merges": ["d"]}]
)
def test_merges_over_which_the_library_would_end_the_process_are_refused_before(tmp_path, capfd, change):
    content = foreign_content()
    content["model"] |= change
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"no usable tokenizer \(the merge .* makes no token"):
        load_tokenizer(tmp_path)
    assert "panicked" not in capfd.readouterr().err


@pytest.mark.download
def test_gpt2s_two_files_are_its_tokenizer(tmp_path, published):
    (tmp_path / "vocab.json").write_bytes(published(GPT2_VOCABULARY).read_bytes())
    (tmp_path / "merges.txt").write_bytes(published(GPT2_MERGES).read_bytes())
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.name, tokenizer.fingerprint) == ("gpt2", gpt2_tokenizer().fingerprint)
    assert tokenizer.encode("Hello, world").tolist() == [15496, 11, 995]
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    with pytest.raises(TokenizerError, match=r"which no line of merges\.txt makes"):
        load_tokenizer(tmp_path)
