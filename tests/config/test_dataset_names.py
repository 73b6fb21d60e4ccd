"""Names of data sets are names: they lead into data_dir and nowhere else."""

from pathlib import Path

import pytest

from quillgpt.config.dataset_names import LONGEST_NAME_BYTES, dataset_name, name_of_sources
from quillgpt.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("shakespeare_char", "shakespeare_char"),
        ("Shakespeare-Char", "shakespeare_char"),
        ("text/", "text"),
        ("text\\", "text"),
        (" text ", "text"),
        ("v1.2", "v1.2"),
        (".hidden", "hidden"),
        ("con", "con"),
        ("a:\u00e9", None),
        ("ab:c", "ab_c"),
        ("M\u00e4rchen", "m\u00e4rchen"),
        ("\u7d05\u6a13\u5922", "\u7d05\u6a13\u5922"),
        ("n" * 255, "n" * 255),
    ],
)
def test_a_name_is_spelled_as_its_folder_is(given: str, name: str | None) -> None:
    if name is None:
        with pytest.raises(ConfigError):
            dataset_name(given)
    else:
        assert dataset_name(given) == name


@pytest.mark.parametrize(
    ("given", "instead"),
    [
        ("../other/text", "--data_dir=../other --dataset=text"),
        ("other/text", "--data_dir=other --dataset=text"),
        ("./text", "--data_dir=. --dataset=text"),
        ("data/text/", "--data_dir=data --dataset=text"),
        ("/abs/data/text", "--data_dir=/abs/data --dataset=text"),
        ("~/data/text", "--data_dir=~/data --dataset=text"),
        ("text/..", "--data_dir=text --dataset=.."),
        ("..\\other\\text", "--data_dir=..\\other --dataset=text"),
        ("C:\\data\\text", "--data_dir=C:\\data --dataset=text"),
        ("C:text", "--data_dir=C: --dataset=text"),
        ("//server/share/data/text", "--data_dir=//server/share/data --dataset=text"),
    ],
)
def test_a_path_is_refused_and_says_what_to_give_instead(given: str, instead: str) -> None:
    with pytest.raises(ConfigError) as caught:
        dataset_name(given)
    assert "is a path" in str(caught.value)
    assert str(caught.value).endswith(instead)


@pytest.mark.parametrize("given", ["", " ", ".", "..", "~", "/", "\\", "---", "..."])
def test_what_leaves_no_name_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="gives no name for a data set"):
        dataset_name(given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("https://example.org/a.txt", "is a text"),
        ("HF:owner/name", "is a text"),
        ("gutenberg:1513", "is a text"),
        ("a\nb", "control character"),
        ("a\0b", "control character"),
        ("\x1b[31mred", "control character"),
        ("n" * 256, "too long"),
        ("\u7d05" * 100, "too long"),
        ("n" * 100_000, "too long"),
        ("n/" * 100_000, "is a path"),
    ],
)
def test_what_no_folder_should_be_called_is_refused_in_a_short_line(given: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        dataset_name(given)
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


def test_a_file_is_a_text_and_not_a_name(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(ConfigError, match=r"is a text.*--data"):
        dataset_name(str(tmp_path / "a.txt"))


@pytest.mark.parametrize("word", ["x" * 300 + ".txt", "https://example.org/" + "\u00e9" * 300, "hf:o/" + "x" * 300])
def test_a_name_that_a_text_gives_is_one_that_a_folder_can_have(word: str) -> None:
    assert len(name_of_sources([word]).encode()) == LONGEST_NAME_BYTES - ("\u00e9" in word)


def test_an_address_names_its_data_set_without_its_password() -> None:
    assert name_of_sources(["https://ada:secret@example.org/"]) == "example.org"
