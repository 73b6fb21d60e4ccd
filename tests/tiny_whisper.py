"""A small Whisper with random weights, made in seconds: in transformers' form and in CTranslate2's."""

from pathlib import Path

import torch
from ctranslate2.converters import TransformersConverter
from faster_whisper.tokenizer import _LANGUAGE_CODES
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

TEXT_TOKENS = 1000
"""The last of them is empty, by which CTranslate2 knows a multilingual model."""

LANGUAGES = [code for code in _LANGUAGE_CODES if code != "yue"]


def tiny_whisper(folder: Path, *, seed: int = 1) -> tuple[Path, Path]:
    """Make a multilingual model, and return its folder in transformers' form and in CTranslate2's."""
    source, converted = folder / "transformers", folder / "whisper-random"
    tokenizer = _tokenizer()
    end = tokenizer.token_to_id("<|endoftext|>")
    torch.manual_seed(seed)
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=tokenizer.get_vocab_size(),
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            pad_token_id=end,
            bos_token_id=end,
            eos_token_id=end,
            decoder_start_token_id=end + 1,
        )
    )
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


def _tokenizer() -> Tokenizer:
    """Return byte-level tokens with Whisper's special tokens at its places; most tokens are made-up words."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(f"Ġword{number}" for number in range(TEXT_TOKENS - len(letters) - 1)), ""]
    tokenizer = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tasks = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
    special = [f"<|{name}|>" for name in ("endoftext", "startoftranscript", *LANGUAGES, *tasks)]
    tokenizer.add_special_tokens(special)
    times = [AddedToken(f"<|{number * 0.02:.2f}|>", normalized=False) for number in range(1501)]
    tokenizer.add_tokens(times)
    return tokenizer
