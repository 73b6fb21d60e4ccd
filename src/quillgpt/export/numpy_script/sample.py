"""Let the model in this folder continue a text: python sample.py "Once upon a time".

It needs Python and numpy. model.py is the model; this file turns text into tokens, draws new ones, and prints them.
"""

import json
import math
import re
import sys
import unicodedata
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
from model import Model, softmax

SETTINGS = {"num_samples": 1, "max_new_tokens": 500, "temperature": 0.8, "top_k": 200, "top_p": 1.0, "seed": 1337}
SPACES = " \t-\r\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a file: 8 bytes with the length of a header, the header in JSON, then the numbers."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    numbers = np.fromfile(path, "<f4", offset=8 + length)
    header.pop("__metadata__", None)
    places = {name: slice(*(at // 4 for at in entry["data_offsets"])) for name, entry in header.items()}
    return {name: numbers[places[name]].reshape(entry["shape"]) for name, entry in header.items()}


class Tokenizer:
    """The tokens of tokenizer.json: characters, or bytes and what they are joined to (byte-pair encoding)."""

    def __init__(self, content: dict) -> None:
        vocabulary, self.joins = content["model"]["vocab"], content["model"]["type"] == "BPE"
        visible = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that the file writes as they are
        hidden = [byte for byte in range(256) if byte not in visible]  # it writes these from character 256 on
        byte_of = {chr(byte): byte for byte in visible} | {chr(256 + n): byte for n, byte in enumerate(hidden)}
        to_bytes = (lambda token: bytes(map(byte_of.get, token))) if self.joins else str.encode
        self.tokens = {id: to_bytes(token) for token, id in vocabulary.items()}
        self.ids = {token: id for id, token in self.tokens.items()}
        self.end = content["added_tokens"][0]["id"] if content["added_tokens"] else None  # it ends a text

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        if self.joins:
            return [self.ids[token] for word in words_of(text) for token in self.join(word.encode("utf-8", "replace"))]
        if unknown := {sign for sign in text if sign.encode() not in self.ids}:
            sys.exit(f"the text that this model learned from has no {' '.join(sorted(unknown))}; leave it out")
        return [self.ids[sign.encode()] for sign in text]

    def join(self, word: bytes) -> list[bytes]:
        """Join two neighbours, always those whose token was learned first, until no two are a token."""
        parts = [word[at : at + 1] for at in range(len(word))]
        while len(parts) > 1:
            first, at = min((self.ids.get(parts[at] + parts[at + 1], math.inf), at) for at in range(len(parts) - 1))
            if first == math.inf:
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return parts


def words_of(text: str) -> list[str]:
    """Split a text as GPT-2 does: into letters, numbers and other signs, each with the space before it, and spaces."""
    letters, numbers = ("".join({sign for sign in text if unicodedata.category(sign)[0] == kind}) for kind in "LN")
    words = rf" ?[a{letters}]+| ?[0{numbers}]+| ?[^a{letters}0{numbers}{SPACES}]+"
    return re.findall(rf"'(?:[sdmt]|ll|ve|re)|{words}|[{SPACES}]+(?![^{SPACES}])|[{SPACES}]+", text)


def draw(logits: np.ndarray, settings: Namespace, uniform: float) -> int:
    """Choose a token by the scores of all, (V,), and a random number from 0 to 1."""
    likeliest = np.argsort(-logits, kind="stable")[: settings.top_k or None]
    scores = logits[likeliest] / max(settings.temperature, 1e-9)  # at 0, the likeliest has all the probability
    probabilities = softmax(scores.astype(np.float64))
    before = np.cumsum(probabilities) - probabilities  # what all that are likelier have together
    sums = np.cumsum(np.where(before < settings.top_p, probabilities, 0))
    return int(likeliest[np.searchsorted(sums, uniform * sums[-1], side="right")])


def continued(model: Model, tokenizer: Tokenizer, ids: list[int], settings: Namespace, sample: int) -> Iterator[int]:
    """Yield the ids that continue a text, until it ends or is long enough."""
    random = np.random.default_rng([settings.seed, sample])
    model.forget()
    text = new = ids[-model.context :]
    for _ in range(settings.max_new_tokens):
        if model.length + len(new) > model.context:  # no room is left: keep the second half of the text
            model.forget()
            new = text[-max(1, model.context // 2) :]
        logits = model.read(new)[-1, : len(tokenizer.tokens)]
        chosen = draw(logits, settings, float(random.random(dtype=np.float32)))
        if chosen == tokenizer.end:
            return
        yield chosen
        text, new = [*text, chosen], [chosen]


def open_folder(folder: Path) -> tuple[Model, Tokenizer, list[int]]:
    """Return the model of a folder, its tokenizer, and the ids that its texts start with."""
    config, tokenizer = (json.loads((folder / f"{name}.json").read_text("utf-8")) for name in ("config", "tokenizer"))
    weights = read_safetensors(folder / "model.safetensors")
    return Model(config, weights), Tokenizer(tokenizer), config["quill"]["start"]


def main() -> None:
    """Print samples."""
    parser = ArgumentParser(formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("prompt", nargs="?", help="the beginning of the text")
    for name, default in SETTINGS.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=" ")
    settings = parser.parse_args()
    model, tokenizer, start = open_folder(Path(__file__).parent)
    ids = tokenizer.encode(settings.prompt) if settings.prompt else start
    for sample in range(settings.num_samples):
        for id in chain(ids, continued(model, tokenizer, ids, settings, sample)):
            if id != tokenizer.end:
                sys.stdout.buffer.write(tokenizer.tokens[id])  # a token may be half a character
                sys.stdout.flush()
        print(f"\n{'-' * 15}", flush=True)


if __name__ == "__main__":
    main()
