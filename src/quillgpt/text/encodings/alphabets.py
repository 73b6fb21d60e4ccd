"""Letters of many languages by frequency, by which encodings older than Unicode are told apart.

The most frequent letter comes first; a letter's frequency is about inverse to its rank. For languages in Latin script
only letters beyond ASCII are listed, since ASCII is the same in all these encodings. For English that is mostly
typography.
"""

from __future__ import annotations

from functools import cache

LATIN = {
    "English": "’“”—–‘…éèïêôçñâöüàë°©®™€£±×µ½•§",
    "French": "éèàêçâîôûùëïœüÿæ",
    "German": "üäöß",
    "Spanish": "óíáéñú¿¡üªº",
    "Portuguese": "ãçáéíêóâõàúôüªº",
    "Italian": "èàùòìéîíóú",
    "Dutch": "ëéïèöüêáóíç",
    "Swedish": "äåöéüà",
    "Danish": "øåæéóö",
    "Norwegian": "åøæéòôêó",
    "Finnish": "äöåšž",
    "Icelandic": "áíðéóöþæúý",
    "Faroese": "áíðúóøæý",
    "Irish": "áéíóú",
    "Old Irish": "áéíóúċḋġṁṡṫḃḟṗ",
    "Welsh": "ŵâêîŷôûáéíóúäëïö",
    "Catalan": "àéèóíçòúïü·",
    "Albanian": "ëç",
    "Maltese": "ħżġċàèìòù",
    "Esperanto": "ĉŝĝŭĵĥ",
    "Polish": "ęłąóśżćńź",
    "Czech": "íáěéřčžšýůúťďňó",
    "Slovak": "áéíčýšžúôľťňäďóŕĺ",
    "Hungarian": "áéöóőíüúű",
    "Romanian": "ăâîşţ",
    "Romanian with commas": "ăâîșț",
    "Croatian": "čšžćđ",
    "Turkish": "ıüşöğçİâîû",
    "Estonian": "äõüöšž",
    "Latvian": "āēīšņļģķžčūŗō",
    "Lithuanian": "ėųšįžąčūę",
    "Sami": "áčđšŋŧž",
    "Vietnamese": "đưôêơâăáàéèíóòúùìýãõũ",
}
"""Letters beyond ASCII."""

OTHERS = {
    "Russian": "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъё",
    "Ukrainian": "оанивітерскулдмпязьбгчхйцжюїєшфщґ",
    "Belarusian": "аіенорслктмвдупзыябгьчюцжхшйэўёф",
    "Bulgarian": "аоиетнрсвлкдпмзугяъбчцжщхйшфюьѝ",
    "Serbian": "аоиенрсутјквдмплгзбчшцжћњфђљхџ",
    "Macedonian": "аоеинтрсвкдлпумзјгбцчшжфхњќѓљџѕ",
    "Kazakh": "аыентрлідсмқкобиуғжңзшйпгөяүұхцчэюёьъһвфщ",
    "Tajik": "аиоднрмтвсекбшуӣлзгҳяфпҷхқӯчжйъғюэё",
    "Greek": "αοιετσνηυρπκμλςωίόάγέδθήφχύώβξζψϊϋΐΰ",
    "Hebrew": "יוהלאתמבשרנדכעפקחסטגצזםןךףץ",
    "Hebrew with points": "יִּוָהְלַאֶתֵמבׁשֹרנדֲכעפקחֱסטגצזֻםןךףץֳׂ",
    "Arabic": "اليمنرتبدعسهفكقةحجأصشطخىضغإذزثآءئظؤ،ًَُِّْـ؟؛ٌٍ",
    "Persian": "ايردنهمتوسبلکشزفگعخقآجپحطصچضغذئثظژ،؟؛ىك",
    "Urdu": "ايکرےنہتسمولبدجپںعشھٹگئقحفخچزطآصضڑذثظؤغڈ۔،؟",
    "Thai": "านร่อก้เงัมิยลวดทสีตะปบคหแจพ์ืชุขใำไผธู็ึซภศถฟณษโ๊ฉญ๋ฐฆฮฝฬๆฯฏฎฌฑฒฤ",
}
"""All letters, with their combining marks."""

RARE = ("Old Irish", "Welsh", "Maltese", "Esperanto", "Sami", "Faroese", "Kazakh", "Tajik")
"""Languages with few texts."""

COMMON_HANZI = {
    "Chinese": (
        "的一了是不我他在有这人个来着说上们到就你子地大那出时里也道得看去过之下心么天和还没可好自然"
        "后小中她要以起年生都手为头把想些会想又什对样能事老三面只回家而见两多前点开知现声国已女己十"
        "如眼从无走身真情问住成像给同笑意但山进神所方发外让话门听光很气长日二等间边打几作用水动此明本"
        "被者行房最高分白种便却太与正候经城四学望吃海今东美叫向因将月力西法先请口再风书写读春夏秋冬路"
    ),
    "Traditional Chinese": (
        "的一了是不我他在有這人個來著說上們到就你子地大那出時裡也道得看去過之下心麼天和還沒可好自然"
        "後小中她要以起年生都手為頭把想些會又什對樣能事老三面只回家而見兩多前點開知現聲國已女己十"
        "如眼從無走身真情問住成像給同笑意但山進神所方發外讓話門聽光很氣長日二等間邊打幾作用水動此明本"
        "被者行房最高分白種便卻太與正候經城四學望吃海今東美叫向因將月力西法先請口再風書寫讀春夏秋冬路"
    ),
    "Japanese": (
        "人一日大出見者子中言来時上分事生手間前私彼気女思自何目行本方年下男立家今入後度心会先話向地"
        "二小体長声少三合所聞国部取全持田学高知考外最女場知名代通当力同発社内理同物十実屋戦対発山道"
    ),
}
COMMON_HANGUL = (
    "이다는을가에의고은한지어를하나도로사기서그라아리자있시들스수인으것니대면만했부보게여주일정해었"
    "오구전장마성없안거던우무야내제말상모소조까요았생때신비러와람적원동미서세공유처중미진위바저경간"
    "려되울너물방과네할래데화계심발영두속집남국음버듯못밤손눈길문학식"
)

KANA = (
    "のにるたとはしいをでてがなれからさっりすあもこまうくよきんめおけそつだやえどわちみせじばへびずろほげむべひょゆぶごゃねふ"
    "ぐぎぼゅづざぞぬぜぱーンスルトリイアラックドシレジタフロカテマィグバムプオコデニウメサビナブャエュチキズダパミェョハセ"
)
"""Hiragana and then katakana."""

EAST_ASIAN_PUNCTUATION = "，。、「」“”：；？！…—　（）《》‘’『』〈〉―・～"
COMMON_TYPOGRAPHY = "’“”–—…«»„‘‚№\u00a0"
RARE_TYPOGRAPHY = "‹›•·†‡°§©®™€£‰¹²³¼½¾×÷±¢¥"
FINAL_LETTERS = "ךםןףץςةى"
"""Letters that stand only at the end of a word."""

_FIRST_EAST_ASIAN = "\u2e80"


@cache
def _common() -> frozenset[str]:
    letters = "".join([*LATIN.values(), *OTHERS.values()])
    return frozenset(letters + letters.upper() + COMMON_TYPOGRAPHY + RARE_TYPOGRAPHY)


def is_common(character: str) -> bool:
    """Return whether a character is used in one of these languages or in East Asia, or is an emoji."""
    return character.isascii() or character >= _FIRST_EAST_ASIAN or character in _common()
