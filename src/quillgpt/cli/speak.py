"""`quill speak`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from quillgpt.cli.completion import complete_path
from quillgpt.cli.flags import settings_flags
from quillgpt.cli.messages import unknown_word
from quillgpt.cli.sample import OUT, OVERWRITE, check_voice, model_to_sample, print_samples
from quillgpt.config import SpeakSettings, resolve_flat
from quillgpt.config.schema import VoiceFields
from quillgpt.errors import ConfigError, cut

WORDS = Parameter(
    name="MODEL|TEXT|FILE",
    help="A model as in quill sample, a text file, - for standard input, or the text itself.",
    allow_leading_hyphen=True,
    completer=complete_path,
)
LIST = "list"
FOR_MODELS = SpeakSettings.model_fields.keys() - VoiceFields.model_fields.keys()


@settings_flags(SpeakSettings)
def speak(
    *words: Annotated[str, WORDS],
    out: Annotated[str | None, OUT] = None,
    overwrite: Annotated[bool, OVERWRITE] = False,
    **flags: str,
) -> None:
    """Speak a text, or samples of a model while they are drawn."""
    settings = resolve_flat(SpeakSettings, flags)
    if settings.voice == LIST:
        print_voices()
        return
    check_voice(flags)
    given = check_words(words)

    from quillgpt.speech.synthesis.material import model_in, read_text
    from quillgpt.speech.synthesis.speak import speaking

    if given is None and flags.keys() & {"out_dir", "init_from"}:
        given, is_model = model_to_sample(None, flags, settings), True
    elif given is None:
        raise ConfigError('speak needs a model, a text file, - or a text: quill speak "Good morning"')
    else:
        is_model = model_in(given)
    if not is_model:
        if unused := sorted(FOR_MODELS & flags.keys()):
            raise ConfigError(f"--{unused[0]} is for a model, and {cut(given, 40)!r} is a text")
        pieces = read_text(given)
        with speaking(settings, out, overwrite=overwrite) as speaker:
            for piece in pieces:
                speaker.push(piece)
        return
    model = model_to_sample(given, flags, settings)
    with speaking(settings, out, overwrite=overwrite) as speaker:
        print_samples(model, settings, is_silent=out == "-", speaker=speaker)


def check_words(words: tuple[str, ...]) -> str | None:
    """Return the one word that is given, or None.

    Raises:
        ConfigError: There are several, or it is an unknown flag.
    """
    for word in words:
        if word.startswith("--") and " " not in word:
            known = {f"--{name}" for name in SpeakSettings.model_fields} | {"--out", "--overwrite"}
            raise ConfigError(unknown_word(word, known, "quill speak --help lists the flags"))
    if len(words) > 1:
        raise ConfigError(
            f"speak takes one text, model or file, and {len(words)} words are given; put a text in quotes: quill speak "
            f'"{cut(" ".join(words), 60)}"'
        )
    return words[0] if words else None


def print_voices() -> None:
    """Print the voices of espeak on standard output."""
    from quillgpt.speech.synthesis.espeak_voice import listed_voices, variants

    rows = [(voice.code, voice.name) for voice in listed_voices()]
    print("\n".join(f"{code:20} {name}" for code, name in rows))
    print("\nEach also with a variant, as in en-us+f3: " + " ".join(variants()))
