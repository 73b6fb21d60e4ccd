"""Phrases that Whisper is known to invent in silence, noise and music; it learned them from subtitles.

All are written as `filters.plain` leaves them: lower case, no punctuation.
"""

from __future__ import annotations

import re
from typing import Final


def _any_of(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns))


CREDITS: Final = _any_of(
    # Names of those who made subtitles: nobody says them in a recording.
    r"(?:subtitles?|captions?|transcription|translation|subtitled|transcribed|translated)"
    r"(?: (?:created|made|provided))? by (?:the )?(?:amara org(?: community)?|castingwords)",
    r"transcription outsourcing llc|transcript emily beynon|subs by www zeoranger co uk",
    r"(?:untertitel|untertitelung)(?: von| der| im auftrag)?(?: den?| des| der)?"
    r" (?:amara org(?: community)?|zdf(?: für funk)?|wdr|swr|ndr|ard)(?: (?:\d{4}|für funk))*",
    r"(?:copyright )?(?:wdr|swr|ndr|zdf|ard|br)(?: mediagroup(?: gmbh)?)?(?: im auftrag des zdf)? \d{4}",
    r"sous titr(?:es|age)(?: (?:réalisés?|fait|faits|créés?))?(?: para?)?(?: la)?"
    r" (?:communauté d amara org|amara org|st 501|société radio canada|fr \d+|soustitreur com)",
    r"(?:subtítulos|subtitulado)(?: (?:realizados?|hechos?|creados?))? (?:por|de)(?: la)? "
    r"(?:comunidad de )?amara org",
    r"legendas? (?:pela|por|da) (?:comunidade )?(?:de )?amara org",
    r"sottotitoli (?:e revisione al testo )?(?:creati dalla|a cura di|di) (?:comunità amara org|qtss)",
    r"(?:ondertitels?|ondertiteld|ondertiteling)(?: ingediend)? (?:door|van) (?:de )?(?:amara org"
    r"(?: gemeenschap)?|tv gelderland)"
    r"|tv gelderland \d{4}",
    r"napisy (?:stworzone przez społeczność|społeczności) amara org",
    r"undertexter(?: från| av)? (?:amara org(?: gemenskapen)?|stina hedin.*|btistudios com)",
    r"субтитры (?:сделал|создавал|делал|подготовил|подогнал|добавил)[аи]? [\w ]{1,40}",
    r"редактор субтитров [\w ]{1,30}(?: корректор [\w ]{1,30})?|корректор а егорова",
    r"altyaz[ıi] m ?k|altyazı (?:amara org|m k)",
    r"ترجمة نانسي قنقر",
    r"(?:中文)?字幕(?:由|提供|志愿者|志願者|製作|制作)[ \w]{0,12}(?:amara ?org|社[区群]|提供|李宗盛"
    r"|杨茜茜|楊茜茜)[ \w]{0,8}",
    r"請不吝點贊 ?訂閱 ?轉發 ?打賞支持明鏡與點點欄目|请不吝点赞 ?订阅 ?转发 ?打赏支持明镜与点点栏目",
    r"(?:한국어 )?자막 ?(?:by|제공|제작) ?[\w ]{1,20}|mbc 뉴스 [\w ]{2,12}입니다",
)
"""Credits of subtitles; not one of them is part of a speech."""

COURTESIES: Final = _any_of(
    # English
    r"(?:okay |ok |so |and )?(?:thank you|thanks)(?: (?:so|very) much)?(?: all)?"
    r"(?: for (?:watching|listening|viewing|joining us|your attention))?(?: (?:this|the|my|our) (?:video"
    r"|channel|episode))?"
    r"(?: (?:guys|everyone|everybody|all))?",
    r"(?:please |and |don t forget to |remember to )*(?:like|share|comment|subscribe|hit the bell)"
    r"(?:(?: and| or|) (?:like|share|comment|subscribe|follow|hit the bell))*"
    r"(?: (?:to )?(?:my|our|the|this) (?:channel|video))?(?: for more(?: videos)?)?",
    r"(?:i ll )?see you (?:all )?(?:in the )?(?:next|again|soon|later)(?: (?:time|video|one|week))?",
    r"(?:bye ?)+|you|okay|the end|to be continued|music|applause|silence",
    # German
    r"(?:vielen |herzlichen )?dank(?: fürs| für das| für ihre| für eure)?(?: zuschauen| zusehen| zuhören"
    r"| aufmerksamkeit)?",
    r"danke(?: schön)?(?: fürs (?:zuschauen|zusehen|zuhören))?|bis zum nächsten mal|tschüss|das wars|ende",
    # French
    r"merci(?: beaucoup)?(?: à tous)?(?: d avoir (?:regardé|écouté|suivi)(?: cette vidéo| la vidéo)?"
    r"| pour votre (?:attention|écoute))?",
    r"(?:n oubliez pas de )?(?:vous abonner|abonnez vous)(?: à (?:la|ma) chaîne)?|à (?:bientôt"
    r"|la prochaine)|au revoir",
    # Spanish
    r"(?:muchas )?gracias(?: a todos)?(?: por (?:ver|mirar|escuchar)(?: el| este)?(?: (?:video|vídeo))?"
    r"| por su atención)?",
    r"(?:no olvides )?suscr[ií]b(?:ete|irte|anse)(?: al| a mi)?(?: canal)?|hasta (?:la próxima|luego|pronto)|adiós",
    # Portuguese
    r"(?:muito )?obrigad[oa](?: a todos)?(?: por (?:assistir|ouvir|ter assistido)(?: (?:o|ao"
    r"|este) v[ií]deo)?| pela atenção)?",
    r"(?:não se esqueça de )?(?:se )?inscrev(?:a se|er|er se)(?: no| em meu)?(?: canal)?|até (?:a próxima"
    r"|logo|mais)|tchau",
    # Italian
    r"grazie(?: mille| a tutti)?(?: per (?:aver guardato|la visione|l attenzione|l ascolto)(?: (?:il"
    r"|questo) video)?)?",
    r"iscriviti(?: al(?: nostro| mio)? canale)?|alla prossima|arrivederci",
    # Dutch, Swedish
    r"(?:hartelijk )?(?:bedankt|dank u(?: wel)?|dank je(?: wel)?)(?: voor het (?:kijken|luisteren))?"
    r"|tot de volgende keer",
    r"tack(?: så mycket)?(?: för att (?:ni|du) (?:tittade|har tittat|lyssnade))?|tack för (?:mig|idag)|hej då",
    # Polish
    r"(?:dziękuję|dziękuje|dzięki)(?: bardzo)?(?: za (?:uwagę|oglądanie|obejrzenie))?|do (?:zobaczenia"
    r"|następnego razu)",
    # Turkish
    r"(?:izlediğiniz|dinlediğiniz) için teşekkür(?:ler| ederim| ederiz)|teşekkür(?:ler| ederim)|abone ol"
    r"(?:mayı unutmayın|un)?",
    # Russian, Ukrainian
    r"спасибо(?: большое)?(?: всем)?(?: за (?:просмотр|внимание|подписку|то что смотрели))?|продолжение следует",
    r"подпис(?:ывайтесь|ывайся)(?: на (?:мой |наш )?канал)?|(?:всем )?пока|до (?:новых )?встречи?|дякую"
    r"(?: за (?:перегляд|увагу))?",
    # Chinese, Japanese, Korean
    r"(?:谢谢|謝謝|感谢|感謝)(?:大家|你|您|各位)?(?:的?(?:观看|觀看|收看|收听|收聽))?|(?:我们)?下(?:次"
    r"|期)(?:再见|再見)|(?:请|請)?(?:点赞|點贊)?(?:订阅|訂閱)",
    r"(?:ご視聴|ご清聴|ご覧いただき)?(?: ?)(?:ありがとうございま(?:した|す))|チャンネル登録(?:を?"
    r"(?:お願い(?:し|いたし)ます|よろしくお願いします))?|おやすみなさい|ではまた",
    r"(?:시청|들어|봐)? ?(?:해 ?주셔서|주셔서)? ?감사합니다|고맙습니다|구독(?:과 좋아요)?(?: "
    r"(?:부탁드립니다|눌러주세요))?|다음 (?:영상|시간)에서? (?:만나요|뵙겠습니다)",
    # Arabic, Hindi
    r"شكرا(?: جزيلا)?(?: (?:لكم|على المشاهدة|للمشاهدة))*|اشتركوا في القناة|(?:देखने के लिए )?धन्यवाद",
)
"""Courtesies that end videos; people say them too, so that they need a second sign."""

SOUNDS: Final = _any_of(
    r"(?:[\w']+ ){0,3}(?:music|musik|musique|música|musica|muziek|muzyka|музыка|音楽|音乐|음악|موسيقى)"
    r"(?: [\w']+){0,2}",
    r"(?:[\w']+ ){0,3}(?:applause|clapping|cheering|cheers|laughter|laughs|laughing|chuckl(?:es|ing)"
    r"|sighs?|coughs?|coughing|"
    r"silence|inaudible|unintelligible|indistinct|noise|static|beep|bell|bells|ringing|breathing"
    r"|footsteps|wind|sniffs|crying|"
    r"screaming|gasps|groans|blank audio|no audio|background noise|speaking (?:in )?[\w']+(?: language)?"
    r"|phone rings)(?: [\w']+){0,2}",
    r"(?:applaus|beifall|gelächter|lachen|lacht|stille|unverständlich|applaudissements|rires|silence"
    r"|aplausos?|risas|risos|"
    r"silencio|silêncio|applausi|risate|gelach|applaus|brawa|śmiech|skratt|аплодисменты|смех|тишина|拍手"
    r"|笑|笑い|掌声|掌聲|笑声|笑聲|박수|웃음)"
    r"(?: [\w']+){0,2}",
)
"""Names of sounds, as subtitles put them in brackets."""
