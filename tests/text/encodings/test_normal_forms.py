import unicodedata

import pytest

from quillgpt.errors import TokenizerError
from quillgpt.text.encodings.normal_forms import in_known_form
from quillgpt.text.tokenizers.char import CharTokenizer


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("word", ["über", "déjà vu", "Ångström", "한국", "ệ", "がぎ"])
def test_a_prompt_in_the_other_normal_form_is_read_in_the_texts(form, word, capsys):
    text = unicodedata.normalize(form, word)
    prompt = unicodedata.normalize("NFD" if form == "NFC" else "NFC", word)
    tokenizer = CharTokenizer.from_text([text])
    assert tokenizer.decode(tokenizer.encode_prompt(prompt)) == text
    assert tokenizer.decode(tokenizer.encode_prompt(prompt)) == text
    assert capsys.readouterr().err.count("the prompt is read in the forms that the training text has") == 1
    with pytest.raises(TokenizerError):  # a text to train on is never changed
        tokenizer.encode(prompt)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("it\u2019s", "it's"),
        ("it's", "it\u2019s"),
        ("\u201cyes\u201d", '"yes"'),
        ("a\u2014b", "a-b"),
        ("a\u00a0b", "a b"),
        ("\uff21\uff22", "AB"),
        ("e\ufb03cient", "efficient"),
    ],
)
def test_what_looks_alike_is_read_as_what_the_text_has(prompt, text):
    tokenizer = CharTokenizer.from_text([text])
    assert tokenizer.decode(tokenizer.encode_prompt(prompt)) == text


def test_only_what_is_lacking_is_changed():
    assert in_known_form("u\u0308 \u00fc", {"u", "\u0308", " "}) == ("u\u0308 u\u0308", {"\u00fc": "u\u0308"})
    assert in_known_form("\u2019 '", {"'", " ", "\u2019"}) == ("\u2019 '", {})


def test_what_the_text_has_in_no_form_is_still_an_error():
    with pytest.raises(TokenizerError, match=r"U\+6F22"):
        CharTokenizer.from_text(["abc"]).encode_prompt("a漢")
