"""Added tokens of a model folder, read as transformers' AutoTokenizer reads them.

They may be in four files: tokenizer.json, tokenizer_config.json (`added_tokens_decoder` and named tokens such as
`eos_token`), and in older folders special_tokens_map.json and added_tokens.json. Here all of them become part of the
content of one tokenizer.json.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from quillgpt.errors import TokenizerError, shorten
from quillgpt.text.tokenizers.tokenizer_files import CONFIG_FILE, END_OF_TEXT, read_json_object

NAMED_TOKENS_FILE = "special_tokens_map.json"
ADDED_TOKENS_FILE = "added_tokens.json"

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
LISTS_OF_TOKENS = ("additional_special_tokens", "extra_special_tokens")
GPT2_CLASSES = frozenset({"GPT2Tokenizer", "GPT2TokenizerFast"})
GPT2_NAMED = dict.fromkeys(("unk_token", "bos_token", "eos_token"), END_OF_TEXT)
"""The named tokens of GPT-2's class, if a folder does not name them."""


class AddedToken(BaseModel):
    """A token that is searched for in a text before the text is split into words."""

    model_config = ConfigDict(strict=True, frozen=True)

    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True
    special: bool = False


class Declared(NamedTuple):
    """A token that a folder declares.

    Attributes:
        token: The token.
        id: Its id; None: the id in the vocabulary, or the next free one.
        file: The file that declares it.
        decisive: Whether its options override those in tokenizer.json.
    """

    token: AddedToken
    id: int | None
    file: Path
    decisive: bool = False


GPT2_END_OF_TEXT = 50256


class FolderTokens(NamedTuple):
    """What the files beside a vocabulary declare.

    Attributes:
        declared: The tokens; those without an id are numbered in this order.
        end_of_text: The token that ends a text, if one is named.
        prefix_space: Whether a space is put before a text; None if no file says.
        is_gpt2: Whether the tokenizer is of GPT-2's class, for which tokenizer_config.json overrides tokenizer.json.
    """

    declared: Sequence[Declared] = ()
    end_of_text: str | None = None
    prefix_space: bool | None = None
    is_gpt2: bool = False

    @property
    def is_plain_gpt2(self) -> bool:
        """Whether the files declare nothing beyond GPT-2's own tokenizer."""
        plain = AddedToken(content=END_OF_TEXT, normalized=False, special=True)
        same = (plain, plain.model_copy(update={"normalized": True}))  # no normalizer, so the two are the same
        return not self.prefix_space and all(
            token in same and id in (None, GPT2_END_OF_TEXT) for token, id, *_ in self.declared
        )


def read_folder_tokens(folder: Path, *, is_gpt2: bool = False) -> FolderTokens:
    """Read the tokens that the files of a folder declare beside its vocabulary.

    Args:
        folder: The folder of the tokenizer's files.
        is_gpt2: Whether the tokenizer is of GPT-2's class if the folder names none.

    Raises:
        TokenizerError: A file is damaged, or asks for something that Quill does not do.
    """
    path = folder / CONFIG_FILE
    config = read_json_object(path) if path.is_file() else {}
    if config.get("split_special_tokens"):
        raise TokenizerError(
            f"{path}: split_special_tokens is true, but Quill reads a special token in a prompt as that token; "
            "remove the key to accept that"
        )
    named_class = config.get("tokenizer_class")
    is_gpt2 = named_class in GPT2_CLASSES if isinstance(named_class, str) else is_gpt2
    decoder = config.get("added_tokens_decoder")
    named_in = dict.fromkeys(config, path)
    if decoder is None and (folder / NAMED_TOKENS_FILE).is_file():
        more = read_json_object(folder / NAMED_TOKENS_FILE)
        config |= more
        named_in |= dict.fromkeys(more, folder / NAMED_TOKENS_FILE)
    if is_gpt2:
        config = GPT2_NAMED | config
    named = list(_named_tokens(config, named_in, path))
    if decoder is not None:
        declared = _from_decoder(decoder, path, named)
    else:
        declared = _from_added(folder / ADDED_TOKENS_FILE, named)
    end = config.get("eos_token")
    prefix_space = config.get("add_prefix_space")
    if not isinstance(prefix_space, bool | None):
        raise TokenizerError(f"{path}: add_prefix_space is {shorten(prefix_space)}; expected true or false")
    end_of_text = end.get("content") if isinstance(end, dict) else end
    return FolderTokens([*declared, *named], end_of_text, prefix_space, is_gpt2)


def with_folder_tokens(content: dict[str, Any], folder_tokens: FolderTokens, where: Path) -> dict[str, Any]:
    """Return the content of a tokenizer.json with the tokens that the files beside it declare.

    Args:
        content: The content of tokenizer.json; not changed.
        folder_tokens: What the other files declare.
        where: The path of tokenizer.json, for messages.

    Raises:
        TokenizerError: The files contradict each other.
    """
    pre_tokenizer = content.get("pre_tokenizer")
    if isinstance(pre_tokenizer, dict) and pre_tokenizer.get("type") == "ByteLevel":
        wanted = bool(folder_tokens.prefix_space) if folder_tokens.is_gpt2 else folder_tokens.prefix_space
        if wanted is not None and pre_tokenizer.get("add_prefix_space", True) is not wanted:
            if not folder_tokens.is_gpt2:
                raise TokenizerError(
                    f"{where} says add_prefix_space = {str(not wanted).lower()}, but {CONFIG_FILE} beside it says "
                    f"{str(wanted).lower()}, and programs differ in which one they use; make them equal"
                )
            content = content | {"pre_tokenizer": pre_tokenizer | {"add_prefix_space": wanted}}
    added = content.get("added_tokens") or []
    model = content.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(added, list) or not all(isinstance(entry, dict) for entry in added):
        return content  # no tokenizer.json; whoever loads it says so
    if not folder_tokens.declared or not isinstance(vocab, dict | list):
        return content
    entries = {entry.get("content"): entry for entry in added}
    ids = _ids_of(vocab)
    free = max([len(ids), *(entry["id"] + 1 for entry in added if type(entry.get("id")) is int)])
    changed = False
    for token, wanted_id, file, decisive in folder_tokens.declared:
        known = entries.get(token.content)
        if known is not None and not decisive:
            continue
        id = known.get("id") if known else ids.get(token.content, free)
        if wanted_id not in (None, id):
            raise TokenizerError(
                f"{file} says that {token.content!r:.80} has the id {wanted_id}; by the vocabulary in {where.parent} "
                f"it would be {id}. Other programs would silently take {id}; correct the one or the other"
            )
        entry = {"id": id, **token.model_dump()}
        if known is None or {**known, **entry} != known:
            entries[token.content] = {**(known or {}), **entry}
            changed = True
        free = max(free, id + 1) if type(id) is int else free
    return content | {"added_tokens": list(entries.values())} if changed else content


def _ids_of(vocab: dict[str, Any] | list[Any]) -> dict[str, Any]:
    if isinstance(vocab, dict):
        return vocab
    return {entry[0]: id for id, entry in enumerate(vocab) if isinstance(entry, list) and entry}


def _named_tokens(config: dict[str, Any], named_in: dict[str, Path], path: Path) -> Iterator[Declared]:
    """Yield the tokens that have a name or are in a list of special tokens."""
    others = (key for key in config if key.endswith("_token") and key not in NAMED_TOKENS)
    values = [(key, config.get(key)) for key in (*NAMED_TOKENS, *others)]
    for key in LISTS_OF_TOKENS:
        tokens = config.get(key) or []
        if isinstance(tokens, dict):
            tokens = list(tokens.values())
        if not isinstance(tokens, list):
            raise TokenizerError(f"{named_in[key]}: {key} should be a list of tokens; correct it")
        values += [(key, value) for value in tokens]
    for key, value in values:
        if value is None or (isinstance(value, bool) and key not in NAMED_TOKENS):
            continue
        file = named_in.get(key, path)
        unusual = key not in (*NAMED_TOKENS, *LISTS_OF_TOKENS)
        if isinstance(value, dict) and unusual and value.get("__type") != "AddedToken":
            raise TokenizerError(f"{file}: {key} is an object, which other programs ignore; write the token as text")
        given = {"content": value} if isinstance(value, str) else value
        usual = {"normalized": False, "special": True}
        token = _token({**usual, **given} if isinstance(given, dict) else given, f"{file}: {key}")
        yield Declared(token.model_copy(update={"special": True}), None, file)


def _from_decoder(decoder: Any, path: Path, named: list[Declared]) -> Iterator[Declared]:
    """Yield the tokens of added_tokens_decoder, by id."""
    if not isinstance(decoder, dict) or not all(re.fullmatch("[0-9]{1,9}", id) for id in decoder):
        raise TokenizerError(f"{path}: added_tokens_decoder should map ids to tokens; correct it")
    special = {declared.token.content for declared in named if declared.file == path}
    for id, given in sorted(decoder.items(), key=lambda item: int(item[0])):
        token = _token(given, f"{path}: added_tokens_decoder, {id}")
        token = token.model_copy(update={"special": token.special or token.content in special})
        yield Declared(token, int(id), path, decisive=True)


def _from_added(path: Path, named: list[Declared]) -> Iterator[Declared]:
    """Yield the tokens of added_tokens.json, by id."""
    if not path.is_file():
        return
    added = read_json_object(path)
    if not all(type(id) is int and id >= 0 for id in added.values()):
        raise TokenizerError(f"{path} should map tokens to ids; correct it or remove the tokens")
    special = {declared.token.content for declared in named}
    for content, id in sorted(added.items(), key=lambda item: item[1]):
        is_special = content in special
        yield Declared(AddedToken(content=content, normalized=not is_special, special=is_special), id, path)


def _token(given: Any, where: str) -> AddedToken:
    try:
        return AddedToken.model_validate(given)
    except ValidationError:
        raise TokenizerError(
            f"{where} is no token; expected a text, or an object with content and true or false for lstrip, rstrip, "
            "single_word, normalized and special"
        ) from None
