"""A page in headless Chromium, and what only a page is asked: prompts in many scripts, and the text of a seed."""

from __future__ import annotations

import copy
import io
import random
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stderr, suppress
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from quillgpt.checkpoint import LoadedModel
from quillgpt.config.schema import Sampling
from quillgpt.errors import TokenizerError
from quillgpt.export.certificate import CheckResult
from quillgpt.export.html.assemble import with_certificate
from quillgpt.export.html.chromium import BrowserError, Page, find_chromium, opened
from quillgpt.export.html.target import PAGE_FILE
from quillgpt.export.html.weights import TABLES, rounded, tensors_of
from quillgpt.export.probe import Probe, ProgramMissingError, Runtime, make_probe
from quillgpt.generation import generate_ids
from quillgpt.generation.sample import prompt_ids
from quillgpt.generation.samplers import candidates, uniforms_of_samples
from quillgpt.model import GPT
from quillgpt.text.tokenizers.tokenizer import Tokenizer

TEXTS_OF_SCRIPT: Final = {
    "Latin": "It was naïve, the best café of 1234 times; won't Ångström x = f(y)\n\tZürich œuvre",
    "Cyrillic": "Все счастливые семьи похожи друг на друга, каждая несчастливая — по-своему: ёж № 7",
    "Devanagari": "यह सबसे अच्छा समय था, क्योंकि हिन्दी में संयुक्त अक्षर हैं। १२३ ज्ञान",
    "Han and kana": "東京は 日本の 首都です。 吾輩は 猫である。 天地玄黃 宇宙洪荒 ガギグ 🚀👩\u200d👩\u200d👧",
}
WORDS: Final = {script: text.split(" ") for script, text in TEXTS_OF_SCRIPT.items()}
"""Words of four scripts, with accents, joined letters and signs of several bytes."""

PROMPTS_OF_SCRIPT: Final = 50
MOST_WORDS: Final = 9
PROMPTS_OF_TOKENS: Final = 50
"""A tokenizer by characters knows all of these, and few of the others."""

MOST_TOKENS: Final = 40
WRITTEN_TOKENS: Final = 200
SEED: Final = 1337
UNIFORMS: Final = 600
"""Random numbers that are compared: more than Quill draws at a time."""


TOLERANCES: Final = {"f16": 1e-3, "q8_0": 2e-2, "f32": 1e-3}
"""Against Quill with the same rounded weights; what rounding itself changes is a check of its own."""


ROUNDING: Final = {"f16": 2e-2, "q8_0": 2e-1}
"""How far rounding may move logits, as shares of their standard deviation: what GGUF's checks allow as well."""


class InChromium(Runtime):
    """A page, opened over file:// in a headless Chromium that ends with `close`.

    Args:
        folder: Where the page is, still without its certificate.

    Raises:
        ProgramMissingError: There is no Chromium.
    """

    def __init__(self, folder: Path) -> None:
        chromium = find_chromium()
        if chromium is None:
            raise ProgramMissingError("neither Chromium nor Chrome was found here, so the page was not opened")
        self._stack = ExitStack()
        opened_page = folder / "opened.html"
        opened_page.write_bytes(with_certificate((folder / PAGE_FILE).read_text(encoding="utf-8"), None))
        self._stack.callback(opened_page.unlink)
        try:
            self.page: Page = self._stack.enter_context(opened(opened_page, chromium))
        except BaseException:
            self._stack.close()
            raise
        self.name = self.page.browser.replace("/", " ")
        self.end_of_text = self.page.ask("end")

    def close(self) -> None:
        """End the browser."""
        self._stack.close()

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        return list(self.page.ask("encode", text=text))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some ids."""
        return str(self.page.ask("decode", ids=list(ids)))

    def logits(self, ids: Sequence[int]) -> Tensor:
        """Return the logits of every position, (T, V)."""
        return torch.from_numpy(self.page.logits(ids).copy())

    def generate(self, ids: Sequence[int], count: int) -> list[int]:
        """Return the greedy continuation."""
        return self.write(ids, Sampling(temperature=0.0, max_new_tokens=count))

    def write(self, ids: Sequence[int], sampling: Sampling) -> list[int]:
        """Return the ids that the page writes after others."""
        settings = {
            **{name: getattr(sampling, name) for name in ("max_new_tokens", "temperature", "top_p")},
            **{"top_k": sampling.top_k or 0, "seed": str(sampling.seed), "stop": ""},
        }
        return list(self.page.ask("write", prompt=list(ids), past=[], settings=settings)["ids"])

    def compare_more(self, loaded: LoadedModel, number_type: str) -> list[CheckResult]:
        """Compare prompts, random numbers, two long texts, rounding, and what is requested."""
        return compare_page(loaded, self, number_type)


def as_written(loaded: LoadedModel, number_type: str) -> LoadedModel:
    """Return the model with the weights that the page has, rounded."""
    model = copy.deepcopy(loaded.model)
    own = dict(model.named_parameters())
    with torch.no_grad():
        for tensor in tensors_of(loaded, number_type):
            values = torch.from_numpy(rounded(tensor.values, tensor.type))
            parameter = own[tensor.name]
            rows = len(values) if tensor.name in TABLES else parameter.shape[0]
            target = parameter[:rows] if parameter.ndim == 2 else parameter[None]
            target.copy_(values[:, : target.shape[1]])
    changed = copy.copy(loaded)
    vars(changed)["model"] = model
    return changed


def compare_page(loaded: LoadedModel, runtime: InChromium, number_type: str) -> list[CheckResult]:
    """Compare what other exports are not asked: prompts, random numbers, two long texts, rounding, and requests."""
    page = runtime.page
    model, tokens = as_written(loaded, number_type).model, min(loaded.tokenizer.vocab_size, loaded.config.vocab_size)
    start = prompt_ids(loaded.tokenizer, None, starts_with_end_of_text=loaded.starts_with_end_of_text)[1]
    greedy = Sampling(num_samples=1, max_new_tokens=WRITTEN_TOKENS, temperature=0.0)
    drawn = Sampling(num_samples=1, max_new_tokens=WRITTEN_TOKENS, temperature=0.8, top_k=200, top_p=0.95, seed=SEED)
    checks = [_compare_prompts(loaded, page), _compare_uniforms(page)]
    for name, sampling in (("greedy text", greedy), (f"text of the seed {SEED}", drawn)):
        checks.append(_compare_text(name, runtime, model, start, sampling, tokens))
    if number_type in ROUNDING:
        checks.append(_measure_rounding(loaded, runtime, number_type, start, drawn, tokens))
    others = [url for url in page.requested if not url.startswith(("file:", "blob:"))]
    wrong = [*(f"it requested {url}" for url in others), *page.wrong]
    said = "; ".join(wrong)[:200] or "only the page itself and its own worker"
    return [*checks, CheckResult("requests", "failed" if wrong else "passed", said)]


def prompts(tokenizer: Tokenizer) -> list[str]:
    """Return prompts in four scripts, and some of tokens that the tokenizer has, always the same."""
    rng = random.Random(SEED)
    in_scripts = [
        " ".join(rng.choices(words, k=rng.randint(1, MOST_WORDS)))
        for words in WORDS.values()
        for _ in range(PROMPTS_OF_SCRIPT)
    ]
    ids = [id for id in range(tokenizer.vocab_size) if id != tokenizer.end_of_text]
    of_tokens = [tokenizer.decode(rng.choices(ids, k=rng.randint(1, MOST_TOKENS))) for _ in range(PROMPTS_OF_TOKENS)]
    return in_scripts + of_tokens


def _compare_prompts(loaded: LoadedModel, page: Page) -> CheckResult:
    name, refused, asked = "ids of prompts", 0, prompts(loaded.tokenizer)
    for text in asked:
        ours: list[int] | None = None
        theirs: list[int] | None = None
        try:
            with redirect_stderr(io.StringIO()):  # what is changed in a prompt is of no interest here
                ours = prompt_ids(loaded.tokenizer, text, starts_with_end_of_text=loaded.starts_with_end_of_text)[1]
        except TokenizerError:
            refused += 1
        with suppress(BrowserError):
            theirs = page.ask("prompt", text=text)["ids"]
        if ours != theirs:
            return CheckResult(name, "failed", f"{text[:60]!r} became {theirs}, expected {ours}"[:300])
    said = (
        f"{len(asked) - PROMPTS_OF_TOKENS} prompts in {len(WORDS)} scripts ({', '.join(WORDS)}), and "
        f"{PROMPTS_OF_TOKENS} of the tokenizer's tokens"
    )
    if refused:
        said += f"; {refused} have characters that the tokenizer does not know, which both refuse"
    return CheckResult(name, "passed", said)


def _compare_uniforms(page: Page) -> CheckResult:
    numbers = uniforms_of_samples(SEED, [0], torch.device("cpu"))
    ours = [float(next(numbers)) for _ in range(UNIFORMS)]
    same = page.ask("uniforms", seed=str(SEED), sample=0, count=UNIFORMS) == ours
    return CheckResult("random numbers", "passed" if same else "failed", f"{UNIFORMS} of the seed {SEED}")


def _compare_text(
    name: str, runtime: InChromium, model: GPT, start: list[int], sampling: Sampling, tokens: int
) -> CheckResult:
    """Compare a text; where it differs first, two choices must be so close that rounding decides."""
    given: list[Tensor] = []
    ours = []
    for chosen in generate_ids(
        model, start, sampling, vocab_size=tokens, on_logits=lambda logits, _: given.append(logits[0, :tokens].clone())
    ):
        if int(chosen) == runtime.end_of_text:
            break
        ours.append(int(chosen))
    theirs = runtime.write(start, sampling)
    if theirs == ours:
        return CheckResult(name, "passed", f"{len(ours)} tokens are the same")
    at = next(i for i, pair in enumerate(zip([*ours, -1], [*theirs, -1], strict=False)) if pair[0] != pair[1])
    end = runtime.end_of_text if runtime.end_of_text is not None else -1
    our_token, their_token = ([*ids, end][at] for ids in (ours, theirs))
    lead = _lead(given[at], sampling, at, our_token, their_token)
    said = f"{at} tokens are the same, then {our_token} and {their_token} are almost equally near"
    return CheckResult(name, "passed" if lead <= NEAR else "failed", said, lead, NEAR)


@torch.no_grad()
def _measure_rounding(
    loaded: LoadedModel, runtime: InChromium, number_type: str, start: list[int], sampling: Sampling, tokens: int
) -> CheckResult:
    """Compare the page with the model as it was before its weights were rounded."""
    model, block_size = loaded.model, loaded.config.block_size
    ours = [int(chosen) for chosen in generate_ids(model, start, sampling, vocab_size=tokens)]
    if runtime.end_of_text in ours:
        ours = ours[: ours.index(runtime.end_of_text)]
    theirs = runtime.write(start, sampling)
    same = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), len(ours))
    ids = [*start, *ours][:block_size]
    before = model.logits(model(torch.tensor([ids])))[0, :, :tokens].float()
    spread = before.std() if tokens > 1 else before.new_ones(())
    largest = float((runtime.logits(ids)[:, :tokens] - before).abs().max() / spread)
    limit = ROUNDING[number_type]
    said = (
        f"against the model before its weights were rounded to {number_type}; of the text that `quill sample` writes "
        f"for the seed {SEED}, the first {same} of {len(ours)} tokens are the same"
    )
    return CheckResult("rounding", "passed" if largest <= limit else "failed", said, largest, limit)


NEAR: Final = 1e-4
"""How close the choices of two texts that part must be: in probability."""


def _lead(logits: Tensor, sampling: Sampling, step: int, ours: int, theirs: int) -> float:
    """Return how much probability lies between the choice made and the other: 0 if both are equally near."""
    if sampling.temperature == 0:
        shares = logits.softmax(-1)
        return float((shares[ours] - shares[theirs]).abs())
    probabilities, ids = candidates(logits[None], sampling)
    numbers = uniforms_of_samples(sampling.seed, [0], logits.device)
    uniform = [float(next(numbers)) for _ in range(step + 1)][-1]
    places = (ids[0] == theirs).nonzero()
    if not len(places):
        return 1.0
    place = int(places[0])
    high = float(probabilities[0, : place + 1].sum())
    return max(0.0, high - float(probabilities[0, place]) - uniform, uniform - high)


def make_page_probe(loaded: LoadedModel, number_type: str) -> Probe:
    """Compute our answers with the weights of the page."""
    return make_probe(as_written(loaded, number_type))
