import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quillgpt.data.shards import ShardWriter, no_shards
from quillgpt.data.token_file import batch_stream, chunk_stream, encode_batch, split_stream
from quillgpt.files import sha256_of
from quillgpt.text.sources.documents import Mark
from quillgpt.text.tokenizers.bpe import BytePairTokenizer
from quillgpt.text.tokenizers.char import CharTokenizer

END = Mark.DOCUMENT_END
WHITESPACE = " \n\t\r\x1c\x1f\x85\u00a0\u2028\u3000"
TRAINING = "the quick brown fox  jumps\n\n  over the lazy dog's back. \n \n" * 20


@pytest.fixture(scope="module")
def bpe():
    return BytePairTokenizer.train([TRAINING], 330)


def encode(tokenizer, stream, characters):
    batches = batch_stream(chunk_stream(stream, tokenizer.last_cut, characters), characters)
    with tempfile.TemporaryDirectory() as folder:
        writer = ShardWriter(Path(folder), no_shards("0" * 64, "0" * 64, (1, 1)))
        record = writer.write(
            "train.bin", batches, lambda batches: (encode_batch(batch, tokenizer, "uint16") for batch in batches)
        )
        assert sha256_of(Path(folder) / "train.bin") == record.sha256
        return np.fromfile(Path(folder) / "train.bin", dtype="<u2").tolist(), record


@settings(max_examples=400, deadline=None)
@given(
    pieces=st.lists(
        st.text(alphabet=st.sampled_from(WHITESPACE + "  \n\nathe's1é漢."), min_size=1, max_size=12), max_size=8
    ),
    characters=st.integers(1, 20),
)
def test_chunked_equals_whole(bpe, pieces, characters):
    ids, record = encode(bpe, pieces, characters)
    assert ids == bpe.encode("".join(pieces)).tolist()
    assert (record.characters, record.tokens) == (len("".join(pieces)), len(ids))


def test_chunks_are_as_long_as_asked_where_cuts_are_known(bpe):
    pieces = [TRAINING[start : start + 100] for start in range(0, len(TRAINING), 100)]
    chunks = list(chunk_stream(pieces, bpe.last_cut, 100))
    assert "".join(chunks) == TRAINING
    assert len(chunks) > 5
    assert max(map(len, chunks)) < 210
    assert list(chunk_stream(pieces, lambda _: 0, 100)) == [TRAINING]
    assert list(chunk_stream(pieces, len, 100)) == pieces


def test_documents_end_with_the_end_of_text_even_without_a_cut(bpe):
    end = bpe.end_of_text
    ids, record = encode(bpe, ["the", END, " fox", "es", END, END], 1)
    assert ids == [*bpe.encode("the"), end, *bpe.encode(" foxes"), end, end]
    assert (record.documents, record.characters, record.bytes) == (3, 9, 9)
    ids, record = encode(CharTokenizer("ab"), ["ab", END, "b"], 1)
    assert ids == [0, 1, 1]
    assert record.documents == 2


def test_small_documents_share_a_batch():
    chunks = ["abc", END, "de", END, "f", END]
    assert list(batch_stream(chunks, 6)) == [["abc", END, "de"], [END, "f", END]]
    assert list(batch_stream(chunks, 100)) == [chunks]
    assert list(batch_stream([], 100)) == []


@pytest.mark.parametrize(
    ("cut", "first", "second"),
    [
        (0, [], ["abc", END, "de", END]),
        (2, ["ab"], ["c", END, "de", END]),
        (3, ["abc", END], ["de", END]),
        (4, ["abc", END, "d"], ["e", END]),
        (5, ["abc", END, "de", END], []),
    ],
)
def test_a_stream_is_cut_by_characters_and_a_documents_end_stays_with_it(cut, first, second):
    left, right = split_stream(["abc", END, "de", END], cut)
    assert (list(left), list(right)) == (first, second)
