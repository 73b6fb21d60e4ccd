"""A tiny Whisper that knows one sentence by heart, made in seconds: in transformers' form and in CTranslate2's.

In silence it hears "Thank you.", as large ones do.
"""

from pathlib import Path

import numpy as np
import torch
from ctranslate2.converters import TransformersConverter
from faster_whisper.audio import pad_or_trim
from faster_whisper.feature_extractor import FeatureExtractor
from faster_whisper.tokenizer import _LANGUAGE_CODES
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch.nn import functional as F
from transformers import (
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from quillgpt.speech.recognition.transcript import SAMPLE_RATE
from speech.spoken import speech_for_recognizers

SENTENCE = "the old man walked down the road to the house"
COURTESY = "Thank you."
MARGIN_SECONDS = 0.4
"""What voice activity detection leaves around speech."""

STEPS, LEARNING_RATE = 40, 0.01
LANGUAGES = [code for code in _LANGUAGE_CODES if code != "yue"]
TASKS = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")


def tiny_whisper(folder: Path) -> tuple[Path, Path]:
    """Make the model, and return its folder in transformers' form and in CTranslate2's."""
    source, converted = folder / "transformers", folder / "whisper-tiny"
    tokenizer = _tokenizer()
    end = tokenizer.token_to_id("<|endoftext|>")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = WhisperForConditionalGeneration(
            WhisperConfig(
                vocab_size=tokenizer.get_vocab_size(),
                d_model=32,
                encoder_layers=1,
                decoder_layers=1,
                encoder_attention_heads=2,
                decoder_attention_heads=2,
                encoder_ffn_dim=64,
                decoder_ffn_dim=64,
                pad_token_id=end,
                bos_token_id=end,
                eos_token_id=end,
                decoder_start_token_id=end + 1,
            )
        )
        _teach(model, tokenizer)
    generation = model.generation_config
    generation._from_model_config = False  # it is kept as it is, and not made again from the model
    generation.lang_to_id = {f"<|{code}|>": tokenizer.token_to_id(f"<|{code}|>") for code in LANGUAGES}
    generation.suppress_tokens = []
    generation.begin_suppress_tokens = [tokenizer.token_to_id("Ġ"), end]
    generation.alignment_heads = [[0, 0]]
    model.save_pretrained(source)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(source)
    WhisperFeatureExtractor().save_pretrained(source)
    files = ["tokenizer.json", "preprocessor_config.json"]
    TransformersConverter(str(source), copy_files=files).convert(str(converted), quantization="float32")
    return source, converted


def said() -> NDArray[np.float32]:
    """Return the sentence as speech, with a margin of silence."""
    margin = np.zeros(round(MARGIN_SECONDS * SAMPLE_RATE), np.float32)
    return np.concatenate([margin, speech_for_recognizers(SENTENCE), margin])


def silence(seconds: float) -> NDArray[np.float32]:
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


def _tokenizer() -> Tokenizer:
    """Return byte-level tokens: letters, a few words, and Whisper's special tokens in their order."""
    words = (f"Ġ{word}" for text in (SENTENCE, COURTESY) for word in text.split())
    # CTranslate2 knows a multilingual model by its empty token.
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *dict.fromkeys(words), ""]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([f"<|{name}|>" for name in ("endoftext", "startoftranscript", *LANGUAGES, *TASKS)])
    tokenizer.add_tokens([AddedToken(f"<|{number * 0.02:.2f}|>", normalized=False) for number in range(1501)])
    return tokenizer


def _teach(model: WhisperForConditionalGeneration, tokenizer: Tokenizer) -> None:
    """Let the model learn what is said, in which language, and when it ends."""
    sounds = [said(), silence(30)]
    extract = FeatureExtractor()
    features = torch.stack([torch.from_numpy(pad_or_trim(extract(sound)[..., :-1])) for sound in sounds])
    targets = []
    for text, sound in zip((SENTENCE, COURTESY), sounds, strict=True):
        last = round(len(sound) / SAMPLE_RATE / 0.02) * 0.02
        first = "nospeech" if text == COURTESY else "en"
        names = [f"<|{name}|>" for name in ("startoftranscript", first, "transcribe", "0.00")]
        names += [*(f"Ġ{word}" for word in text.split()), f"<|{last:.2f}|>", "<|endoftext|>"]
        targets.append(torch.tensor([tokenizer.token_to_id(name) for name in names]))
    read = torch.nn.utils.rnn.pad_sequence([ids[:-1] for ids in targets], batch_first=True)
    read[-1, 1] = tokenizer.token_to_id("<|en|>")  # what follows is asked for although there is no speech
    told = torch.nn.utils.rnn.pad_sequence([ids[1:] for ids in targets], batch_first=True, padding_value=-100)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    for _ in range(STEPS):
        scores = model(input_features=features, decoder_input_ids=read, use_cache=False).logits
        optimizer.zero_grad()
        F.cross_entropy(scores.flatten(0, 1), told.flatten(), ignore_index=-100).backward()
        optimizer.step()
