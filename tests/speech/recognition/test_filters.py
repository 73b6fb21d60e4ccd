"""What is left out of a transcript, and what must stay."""

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quillgpt.speech.recognition.filters import (
    INVENTED,
    LOOP,
    LOW_CONFIDENCE,
    NO_DURATION,
    NO_SPEECH,
    NO_WORDS,
    OUTSIDE,
    REPEATED,
    SUNG,
    TOO_FAST,
    UNSURE,
    Fate,
    judge,
    plain,
)
from quillgpt.speech.recognition.transcript import Segment

CREDITS = [
    "Subtitles by the Amara.org community",
    "Subtitles created by the Amara.org community.",
    "Transcription by CastingWords",
    "Untertitel der Amara.org-Community",
    "Untertitel im Auftrag des ZDF für funk, 2017",
    "Untertitelung des ZDF, 2020",
    "Sous-titres réalisés par la communauté d'Amara.org",
    "Sous-titres réalisés para la communauté d'Amara.org",
    "Sous-titrage ST' 501",
    "Sous-titrage Société Radio-Canada",
    "Subtítulos realizados por la comunidad de Amara.org",
    "Legendas pela comunidade Amara.org",
    "Sottotitoli creati dalla comunità Amara.org",
    "Sottotitoli e revisione al testo a cura di QTSS",
    "Ondertitels ingediend door de Amara.org gemeenschap",
    "Napisy stworzone przez społeczność Amara.org",
    "Субтитры сделал DimaTorzok",
    "Редактор субтитров А.Семкин Корректор А.Егорова",
    "Altyazı M.K.",
    "字幕由Amara.org社区提供",
    "請不吝點贊 訂閱 轉發 打賞支持明鏡與點點欄目",
    "MBC 뉴스 이덕영입니다.",
]

COURTESIES = [
    "Thank you.",
    "Thanks for watching!",
    "Thank you very much.",
    "you",
    "Bye-bye.",
    "Please subscribe to my channel.",
    "Thanks for watching! Please like and subscribe.",
    "I'll see you in the next video.",
    "Vielen Dank fürs Zuschauen!",
    "Merci d'avoir regardé cette vidéo !",
    "¡Gracias por ver el video!",
    "Obrigado por assistir!",
    "Grazie per aver guardato il video.",
    "Bedankt voor het kijken!",
    "Dziękuję za uwagę.",
    "İzlediğiniz için teşekkürler.",
    "Спасибо за просмотр!",
    "Продолжение следует...",
    "谢谢观看",
    "ご視聴ありがとうございました",
    "시청해주셔서 감사합니다.",
    "شكرا للمشاهدة",
]

SOUNDS = [
    *(
        "[Music]",
        "(applause)",
        "♪",
        "♪♪♪",
        "...",
        "*sighs*",
        "(music) (laughter)",
        "[BLANK_AUDIO]",
        "【拍手】",
        "(Gelächter)",
    ),
    *("", "   ", "[Musik spielt]", "(Soft piano music playing)", "(笑)", "-", "?!", "[Speaker 2]"),
]

SPEECH = [
    *(
        "Subtitles by themselves are not enough.",
        "I work for Amara.org, which makes subtitles.",
        "Thank you, Mr. President.",
    ),
    *(
        "Thank you for watching over my children while I was away.",
        "You know what I mean.",
        "(He laughed and went home.)",
    ),
    *(
        "Music is the silence between the notes.",
        "Vielen Dank, dass Sie heute alle gekommen sind.",
        "Bye the way, he said.",
    ),
    *(
        "No, no, no, no!",
        "Hear, hear, hear!",
        "Never, never, never, never give up.",
        "Ha ha ha ha ha.",
        "Amen.",
        "1984",
        "你好。",
    ),
    *("Tomorrow, and tomorrow, and tomorrow, creeps in this petty pace from day to day", "Row, row, row your boat"),
    "Alone, alone, all, all alone, alone on a wide wide sea",
    "I have a dream that one day this nation will rise up. I have a dream that my four little children will be judged. "
    "I have a dream today.",
]


def spoken(text: str, *, start: float = 0.0, seconds: float | None = None, **values: object) -> Segment:
    """Return a segment that was clearly said, in the time that it takes, except for what is given."""
    fitting = max(0.6, sum(2 if ord(letter) > 0x2E80 else 1 for letter in text) / 14)
    sure = Segment(start, start + (fitting if seconds is None else seconds), text, confidence=0.9, no_speech=0.02)
    return replace(sure, **values)


def verdict(segment: Segment, duration: float | None = None) -> tuple[Fate, str | None]:
    [judged] = judge([segment], duration=duration)
    return judged.fate, judged.reason


@pytest.mark.parametrize("text", SPEECH)
def test_what_is_clearly_spoken_stays(text: str) -> None:
    assert verdict(spoken(text)) == (Fate.KEEP, None)


@pytest.mark.parametrize("text", SOUNDS)
def test_sounds_are_dropped(text: str) -> None:
    assert verdict(spoken(text)) == (Fate.DROP, NO_WORDS)


@pytest.mark.parametrize("text", CREDITS)
def test_credits_of_subtitles_are_invented_however_sure_the_recognizer_is(text: str) -> None:
    assert verdict(spoken(text)) == (Fate.DOUBT, INVENTED)


@pytest.mark.parametrize("text", COURTESIES)
def test_courtesies_stay_if_they_were_clearly_spoken_and_go_if_they_were_not(text: str) -> None:
    assert verdict(spoken(text)) == (Fate.KEEP, None)
    assert verdict(spoken(text, no_speech=0.7)) == (Fate.DOUBT, INVENTED)
    assert verdict(spoken(text, confidence=0.45)) == (Fate.DOUBT, INVENTED)
    assert verdict(spoken(text, seconds=29.9)) == (Fate.MARK, INVENTED)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("the the the the the the the the the the the the", 4.0),
        ("and then and then and then and then and then and then and then", 5.0),
        ("I don't know what to do. I don't know what to do. I don't know what to do. I don't know what to do.", 9.0),
        ("So he went out. " + "of the house of the lord " * 5, 12.0),
        ("我不知道我不知道我不知道我不知道我不知道我不知道", 8.0),
        ("ha" + " ha" * 40, 20.0),
    ],
)
def test_a_phrase_that_comes_again_and_again_within_a_segment_is_a_loop(text: str, seconds: float) -> None:
    assert verdict(spoken(text, seconds=seconds)) == (Fate.DOUBT, LOOP)


def test_few_different_words_that_compress_well_are_a_loop() -> None:
    text = "go on and on and go on and go and on and on and go on go and on on and go and on and go on"
    assert verdict(spoken(text, compression=2.5)) == (Fate.DOUBT, LOOP)
    assert verdict(spoken(text, compression=2.0)) == (Fate.KEEP, None)
    assert verdict(spoken(SPEECH[-1], compression=2.5)) == (Fate.KEEP, None)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"start": 61.0, "end": 63.0}, (Fate.DOUBT, OUTSIDE)),
        ({"end": 0.0}, (Fate.DOUBT, NO_DURATION)),
        ({"start": 5.0, "end": 4.0}, (Fate.DOUBT, NO_DURATION)),
        ({"end": float("nan")}, (Fate.DOUBT, NO_DURATION)),
        ({"end": 0.3}, (Fate.DOUBT, TOO_FAST)),
        ({"no_speech": 0.8, "confidence": 0.35}, (Fate.DOUBT, NO_SPEECH)),
        ({"no_speech": 0.8}, (Fate.KEEP, None)),
        ({"no_speech": None}, (Fate.KEEP, None)),
        ({"confidence": 0.1}, (Fate.DOUBT, UNSURE)),
        ({"confidence": 0.4}, (Fate.MARK, UNSURE)),
        ({"confidence": LOW_CONFIDENCE}, (Fate.KEEP, None)),
        ({"text": "♪ Oh say can you see by the dawn's early light ♪"}, (Fate.MARK, SUNG)),
    ],
)
def test_other_signs_of_an_error(changes: dict[str, object], expected: tuple[Fate, str | None]) -> None:
    assert verdict(replace(spoken("Four score and seven years ago our fathers"), **changes), duration=60.0) == expected


def test_times_are_brought_into_the_recording() -> None:
    [judged] = judge([spoken("and that is the end of it", start=58.5, seconds=4.0)], duration=60.0)
    assert (judged.segment.start, judged.segment.end, judged.fate) == (58.5, 60.0, Fate.KEEP)


def test_a_loop_over_segments_is_left_out_but_for_its_first_round() -> None:
    looping = [spoken("I'm going to go.", start=10.0 + 2 * number, seconds=2.0) for number in range(6)]
    before, after = spoken("Now listen.", start=5.0), spoken("That was it.", start=30.0)
    judged = judge([before, *looping, after])
    assert [one.fate for one in judged] == [Fate.KEEP, Fate.KEEP, *[Fate.DOUBT] * 5, Fate.KEEP]
    assert {one.reason for one in judged[2:-1]} == {LOOP}


def test_a_loop_of_two_segments_in_turn_is_noticed() -> None:
    texts = ["Where are you going?", "I don't know."] * 4
    judged = judge([spoken(text, start=3.0 * number, seconds=3.0) for number, text in enumerate(texts)])
    assert [one.fate for one in judged] == [*[Fate.KEEP] * 2, *[Fate.DOUBT] * 6]


def test_a_refrain_is_marked_and_stays() -> None:
    starts, lengths = (10.0, 14.3, 18.1, 23.0), (3.1, 2.9, 3.4, 3.0)
    sung = [
        spoken("And the rain it raineth every day.", start=s, seconds=n) for s, n in zip(starts, lengths, strict=True)
    ]
    judged = judge(sung)
    assert [(one.fate, one.reason) for one in judged] == [(Fate.KEEP, None), *[(Fate.MARK, REPEATED)] * 3]
    assert all(one.is_text() for one in judged)


@pytest.mark.parametrize(("rounds", "fate"), [(9, Fate.MARK), (10, Fate.DOUBT)])
def test_ten_rounds_are_a_loop_whatever_their_times_are(rounds: int, fate: Fate) -> None:
    judged = judge([spoken("Come buy, come buy.", start=4.0 * n + 0.3 * (n % 3), seconds=2.0) for n in range(rounds)])
    assert [one.fate for one in judged] == [Fate.KEEP, *[fate] * (rounds - 1)]


def test_a_refrain_between_verses_and_a_line_said_twice_are_nothing_unusual() -> None:
    refrain = "With a hey, ho, the wind and the rain"
    texts = ["When that I was a little boy", refrain, "But when I came to man's estate", refrain, "Amen.", "Amen."]
    judged = judge([spoken(text, start=4.0 * number) for number, text in enumerate(texts)])
    assert {one.fate for one in judged} == {Fate.KEEP}


def test_repeated_segments_that_cannot_be_said_in_their_time_are_a_loop() -> None:
    starts = (1.0, 1.3, 1.7, 1.9)
    judged = judge([spoken("that is what I said", start=start, seconds=0.5) for start in starts])
    assert [one.reason for one in judged] == [None, LOOP, LOOP, LOOP]


def test_doubtful_segments_belong_to_the_text_only_where_they_are_wanted() -> None:
    kept, marked, doubted, dropped = judge(
        [
            spoken("Good morning."),
            spoken("Good day.", confidence=0.4),
            spoken("Good evening.", confidence=0.1),
            spoken("[Music]"),
        ]
    )
    assert [one.is_text() for one in (kept, marked, doubted, dropped)] == [True, True, False, False]
    assert [one.is_text(keep_doubtful=True) for one in (kept, marked, doubted, dropped)] == [True, True, True, False]


def test_nothing_is_heard_in_nothing() -> None:
    assert judge([]) == []
    assert judge([], duration=0.0) == []


def test_plain_text_has_neither_case_nor_punctuation() -> None:
    assert plain("  Sous-titrage ST' 501…  ") == "sous titrage st 501"
    assert plain("İYİ GÜNLER!") == "iyi günler"
    assert plain("धन्यवाद।") == "धन्यवाद"


number = st.floats(allow_nan=True, allow_infinity=True)
phrase = st.one_of(st.text(max_size=60), st.sampled_from([*SPEECH, *CREDITS, *COURTESIES, *SOUNDS]))
probability = st.floats(0, 1)
anything = st.builds(Segment, number, number, phrase, probability, st.none() | probability, st.floats(0, 50))


@given(st.lists(anything, max_size=12), st.none() | st.floats(0, 1e6))
def test_whatever_was_heard_is_kept_in_its_order_or_has_a_reason(heard: list[Segment], duration: float | None) -> None:
    judged = judge(heard, duration=duration)
    assert [one.segment.text for one in judged] == [segment.text for segment in heard]
    assert all((one.fate is Fate.KEEP) == (one.reason is None) for one in judged)


@pytest.mark.parametrize("text", ["*" * 50_000, "[" * 50_000, "bye " * 20_000 + "x", "please " * 20_000, "♪ " * 20_000])
def test_long_texts_are_judged_quickly(text: str) -> None:
    before = time.process_time()
    judge([spoken(text)])
    assert time.process_time() - before < 5
