import json
import subprocess
import sys

import pytest
from tokenizers import Tokenizer as Engine
from tokenizers import decoders, models, pre_tokenizers

from quillgpt.errors import TokenizerError
from quillgpt.text.tokenizers.bounds import check_bounds
from quillgpt.text.tokenizers.tokenizer_json import HuggingFaceTokenizer


def content(**parts):
    engine = Engine(models.BPE({chr(97 + at): at for at in range(26)}, []))
    engine.pre_tokenizer = pre_tokenizers.Whitespace()
    engine.decoder = decoders.Fuse()
    return json.loads(engine.to_str()) | parts


def replace(pattern, by, kind="String"):
    return {"type": "Replace", "pattern": {kind: pattern}, "content": by}


def sequence(*steps, of="normalizers"):
    return {"type": "Sequence", of: list(steps)}


HOSTILE = {
    "doubling": content(normalizer=sequence(*[replace("a", "aa")] * 34)),
    "doubling by an expression": content(normalizer=sequence(*[replace("a", "aa", "Regex")] * 34)),
    "doubling in turns": content(normalizer=sequence(*[replace("a", "bb"), replace("b", "aa")] * 17)),
    "between all letters": content(normalizer=sequence(*[replace("", "x")] * 34)),
    "sequences in sequences": content(normalizer=sequence(*[sequence(*[replace("e", "ee")] * 6)] * 6)),
    "one long text": content(normalizer=replace("t", "x" * 5_000_000)),
    "a doubling decoder": content(decoder=sequence(*[replace("a", "aa")] * 34, of="decoders")),
    "many steps": content(normalizer=sequence(*[{"type": "NFC"}] * 100_000)),
    "many cuts": content(pre_tokenizer=sequence(*[{"type": "Whitespace"}] * 300, of="pretokenizers")),
    "long prefixes": content(normalizer=sequence(*[{"type": "Prepend", "prepend": "x" * 100}] * 100)),
    "added tokens": content(added_tokens=[{}] * 200_000),
    "long words": content(model={"type": "WordPiece", "vocab": {"a": 0}, "max_input_chars_per_word": 10**9}),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_tokenizer_that_would_fill_the_memory_is_refused_before_it_is_made(kind):
    with pytest.raises(TokenizerError, match=r"bad\.json .* would fill the memory"):
        HuggingFaceTokenizer(HOSTILE[kind], name="bad.json")


@pytest.mark.parametrize(
    "normalizer",
    [
        None,
        sequence({"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")),
        sequence(replace("``", '"'), replace("''", '"'), {"type": "NFKD"}, replace(" {2,}", " ", "Regex")),
        sequence(*[replace(chr(97 + at), chr(65 + at) * 2) for at in range(26)]),
        sequence(replace("\n", "<newline>"), replace("\t", "<tab>")),
    ],
)
def test_what_published_tokenizers_do_is_let_through(normalizer):
    check_bounds(content(normalizer=normalizer), "good.json")
    HuggingFaceTokenizer(content(normalizer=normalizer), name="good.json")


@pytest.mark.parametrize("odd", [None, 3, [], {"normalizer": 3}, {"type": "Sequence", "normalizers": [3, None]}])
def test_bounds_are_checked_for_content_of_any_structure(odd):
    check_bounds({"normalizer": odd, "decoder": odd, "model": odd, "added_tokens": odd}, "odd.json")


def test_a_panic_of_the_library_is_one_line_and_nothing_on_the_screen(capfd):
    bad = content(pre_tokenizer={"type": "FixedLength", "length": 0})
    with pytest.raises(TokenizerError, match="chunk size"):
        HuggingFaceTokenizer(bad, name="bad.json").encode("abc")
    with pytest.raises(TokenizerError) as caught:
        HuggingFaceTokenizer(content(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_closed_standard_error_is_no_hindrance():
    code = (
        "import os, json, sys; os.close(2)\n"
        "from quillgpt.text.tokenizers.tokenizer_json import HuggingFaceTokenizer as T\n"
        "print(len(T(json.load(sys.stdin)).encode('abc')))"
    )
    given = json.dumps(content())
    run = subprocess.run([sys.executable, "-c", code], input=given, capture_output=True, text=True, check=True)
    assert run.stdout == "3\n"
