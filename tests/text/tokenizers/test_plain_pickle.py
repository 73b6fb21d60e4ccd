"""Pickles of plain values are read as by the library, and in memory proportional to their size."""

import pickle
import time
import tracemalloc
from contextlib import suppress
from random import Random

import pytest

from fuzzing import damage, fuzz, randoms
from quillgpt.errors import UserError
from quillgpt.text.tokenizers.nanogpt_meta import read_nanogpt_meta
from quillgpt.text.tokenizers.plain_pickle import CodeError, PickleError, read_plain_pickle

TABLE = dict(enumerate("abc \n\u00e9\u6f22\U0001f600"))
VALUES = [
    {"vocab_size": 8, "itos": TABLE, "stoi": {value: key for key, value in TABLE.items()}},
    {
        "nested": [
            1,
            -1,
            2**40,
            -(2**70),
            1.5,
            None,
            True,
            False,
            (),
            (1,),
            (1, 2),
            (1, 2, 3),
            (1, 2, 3, 4),
            b"x",
            "y" * 300,
        ]
    },
    [[], {}, {1, 2, "a"}, {"a": {"b": {"c": []}}}],
    TABLE,
    "text",
    3,
]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))  # a set is written in any order
def test_what_the_library_writes_is_read_as_the_library_reads_it(value, protocol):
    if protocol < 4:
        value = [item for item in value if not isinstance(item, set)] if isinstance(value, list) else value
    if protocol < 3 and isinstance(value, dict) and "nested" in value:
        value = {"nested": [item for item in value["nested"] if not isinstance(item, bytes)]}
    assert read_plain_pickle(pickle.dumps(value, protocol)) == value


def test_a_value_that_occurs_twice_is_one_object():
    shared = ["x"]
    first, second = read_plain_pickle(pickle.dumps([shared, shared]))
    assert first is second


DOUBLED = b"\x80\x04)\x94" + b"".join(b"h%c h%c\x86\x94".replace(b" ", b"") % (i, i) for i in range(60))
BOMBS = {
    "memo index": b"\x80\x02]r\xff\xff\xff\x7f.",
    "memo index in text": b"]p99999999999\n.",
    "huge LONG4": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "negative LONG4": b"\x80\x02\x8b\xff\xff\xff\xff.",
    "huge BINUNICODE8": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7fabc.",
    "huge BINBYTES8": b"\x80\x04\x8e" + b"\xff" * 8 + b"abc.",
    "huge BYTEARRAY8": b"\x80\x05\x96" + b"\xff" * 7 + b"\x7f.",
    "huge FRAME": b"\x80\x04\x95" + b"\xff" * 8 + b"}.",
    "long decimal": b"L" + b"9" * 100_000 + b"L\n.",
    "deep lists": b"]" * 30_000 + b"a" * 29_999 + b".",
    "sets": b"\x80\x04" + b"\x8f" * 200_000 + b".",
    "marks": b"(" * 300_000 + b".",
    "doubling tuples as a key": DOUBLED + b"h\x3c}" + b"h\x3cK\x01s.",
    "larger than any table": b"\x80\x04" + b"0" * (9 << 20),
    "nothing": b"",
    "only an end": b".",
    "only a mark": b"(.",
    "pop of nothing": b"0.",
    "no such memo": b"h\x05.",
    "append to text": b"\x80\x02X\x01\0\0\0aK\x01a.",
    "odd dict": b"(K\x01d.",
    "unknown operation": b"\xff.",
    "recursion": b"\x80\x02]q\0h\0a.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_no_pickle_takes_more_memory_or_time_than_its_size(name, tmp_path):
    (tmp_path / "meta.pkl").write_bytes(BOMBS[name])
    began = time.monotonic()
    tracemalloc.start()
    with pytest.raises(UserError) as caught:
        read_nanogpt_meta(tmp_path / "meta.pkl")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150_000_000
    assert time.monotonic() - began < 60
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        b"(S'true'\nios\nsystem\n.",
        b"\x80\x02}\x82\x01.",
        b"\x80\x02]Q.",
        b"P1\n.",
        b"\x80\x05\x97.",
        b"]}b.",
    ],
)
def test_what_would_run_code_or_lead_out_is_refused(content):
    with pytest.raises(CodeError):
        read_plain_pickle(content)


@fuzz(300, random=randoms)
def test_a_damaged_pickle_is_read_or_refused(random: Random) -> None:
    content = damage(pickle.dumps(random.choice(VALUES), random.randrange(6)), random)
    with suppress(PickleError):
        read_plain_pickle(content)
