"""A few sentences in many languages, for tests of what is read."""

from __future__ import annotations

import unicodedata

GREEK = "Ἐν ἀρχῇ ἦν ὁ λόγος\n— “x”\n"
ENGLISH = (
    "The old lighthouse keeper didn’t speak much that winter. “If the lamp goes out,” he said, “the sea won’t wait for "
    "us” – and so we climbed the stairs every night, one hundred and twelve of them…\n"
    "In the village they called him stubborn; we called him ‘Captain’, though he’d never owned a boat.\n"
)
GERMAN = (
    "Als der Müller am frühen Morgen über die Brücke ging, lag der Nebel noch schwer auf den Wiesen. „Heute wird es "
    "schön“, sagte er zu seinem Hund, der müde neben ihm hertrottete.\nDie Bäuerin grüßte ihn freundlich und fragte, "
    "ob er für die große Straße einen Schlüssel bräuchte; er schüttelte bloß den Kopf.\n"
)
FRENCH = (
    "L’été dernier, à la fin d’une journée très chaude, ma grand-mère nous a raconté l’histoire du boulanger qui "
    "n’aimait pas le pain. « Ça vous étonne ? » disait-elle en riant.\nSon œuvre était là, derrière lui : des brioches "
    "dorées, des gâteaux, et dès que le soleil paraissait il s’en allait pêcher près du vieux château…\n"
)
SPANISH = (
    "El señor Núñez llegó a la estación cuando ya había salido el último tren de la mañana. —¿Qué hacemos ahora? "
    "—preguntó su hija pequeña, que tenía frío y sueño—. ¡Caminar!\nAsí empezó aquella excursión tan extraña, por los "
    "caminos de la montaña, entre árboles y pájaros que ningún niño conocía.\n"
)
PORTUGUESE = (
    "Não havia ninguém na praça quando o sino tocou às três da manhã. João acordou, abriu a janela e viu que a estação "
    "estava toda iluminada; as crianças já corriam pela rua.\nA avó dizia que não era nada, só uma ilusão.\n"
)
SWEDISH = (
    "När vi kom fram till sjön hade isen redan börjat smälta. Farfar ställde ner ryggsäcken, såg på klockan och sade "
    "att vi måste vänta.\nDär ute på ön låg det gula huset, och från skorstenen steg röken rakt upp.\n"
)
POLISH = (
    "Kiedy wróciliśmy do wsi, było już ciemno i padał śnieg. Dziadek siedział przy piecu, czytał gazetę i udawał, że "
    "nas nie słyszy.\nNie wiedzieliśmy, co odpowiedzieć, więc zaczęliśmy mówić o łąkach, żabach i o źródle pod lasem.\n"
)
CZECH = (
    "Když jsme přišli k řece, voda už byla tak vysoko, že se nedalo přejít. Otec řekl, že počkáme do rána, a tak jsme "
    "si rozdělali oheň pod starým dubem.\nNejmladší bratr se pořád ptal, kolik je hodin a jestli začne svítat.\n"
)
HUNGARIAN = (
    "Amikor megérkeztünk a faluba, már sötét volt, és az utcán senki sem járt. Nagyapám a tűz mellett ült, könyvet "
    "olvasott.\nHol jártatok ilyen sokáig, kérdezte, mi nem tudtunk mit felelni; a hídról meséltünk, meg az őzről.\n"
)
TURKISH = (
    "Köye vardığımızda güneş çoktan batmıştı ve sokaklarda kimse kalmamıştı. Dedem kapının önünde oturmuş, elinde çay "
    "bardağıyla bizi bekliyordu.\nBiz yolun kapalı olduğunu, ırmağın taştığını ve köprüden geçemediğimizi anlattık.\n"
)
RUSSIAN = (
    "Ранним утром, когда над рекой ещё стоял туман, старый паромщик вышел на берег и долго смотрел на другую сторону. "
    "Никто не звал его уже третий день, но он всё равно готовил лодку.\nПридут, говорил он собаке, обязательно придут, "
    "куда им деваться. Собака молчала и только изредка помахивала хвостом.\n"
)
MODERN_GREEK = (
    "Όταν φτάσαμε στο νησί, ο ήλιος είχε ήδη δύσει και τα καΐκια γύριζαν στο λιμάνι. Ο παππούς καθόταν έξω από το "
    "καφενείο και μας περίμενε με ένα ποτήρι νερό.\nΑργήσατε, είπε χαμογελώντας, και άρχισε να μας λέει ιστορίες.\n"
)
HEBREW = (
    "כשהגענו אל הכפר כבר ירד הערב, והרחובות היו ריקים. סבא ישב ליד החלון, קרא ספר ישן ולא שמע שנכנסנו.\nלמה איחרתם כל "
    "כך, שאל לבסוף, ואנחנו לא ידענו מה לענות, ולכן סיפרנו לו על הנהר ועל הגשר השבור.\n"
)
ARABIC = (
    "عندما وصلنا إلى القرية كانت الشمس قد غابت والشوارع خالية من الناس. جلس جدي أمام الباب وفي يده كوب من الشاي.\n"
    "سألنا لماذا تأخرتم، فحكينا له عن الطريق المغلق وعن النهر الذي فاض وعن الرجل الذي أعطانا التفاح.\n"
)
CHINESE = (
    "　　那年冬天下了一场很大的雪，村子里的路都被封住了。爷爷每天早上起来扫雪，一边扫一边唱歌，邻居们听见了都笑他。\n"
    "我问他为什么这么高兴，他说：“雪下得越大，明年的麦子就越好。”后来我才知道，他年轻的时候曾经在北方修过铁路。\n"
)
TRADITIONAL_CHINESE = (
    "　　那年冬天下了一場很大的雪，村子裡的路都被封住了。爺爺每天早上起來掃雪，一邊掃一邊唱歌，鄰居們聽見了都笑他。\n"
    "我問他為什麼這麼高興，他說：「雪下得越大，明年的麥子就越好。」後來我才知道，他年輕的時候曾經在北方修過鐵路。\n"
)
JAPANESE = (
    "その年の冬はとても寒くて、川の水まで凍ってしまった。祖父は毎朝早く起きて、犬を連れて橋のところまで歩いて行った。\n"
    "「今日も誰も来ないね」と言いながら、それでも火をおこして、お茶の用意をするのだった。春になると、ラジオから音楽が流れた。\n"
)
KOREAN = (
    "그해 겨울에는 눈이 아주 많이 내려서 마을로 가는 길이 모두 막혔다. 할아버지는 아침마다 일찍 일어나 마당의 눈을 "
    "쓸면서 노래를 불렀다.\n왜 그렇게 기쁘냐고 물었더니 눈이 많이 올수록 내년 농사가 잘된단다 하고 대답했다.\n"
)
ITALIAN = (
    "Quando arrivammo al villaggio era già buio e nessuno camminava per le strade. Il nonno sedeva vicino al "
    "fuoco e leggeva un libro.\n"
    "«Perché così tardi?» chiese, e noi non sapevamo più che cosa dire; perciò cominciammo a parlare della "
    "città, del caffè e della società.\n"
)
DUTCH = (
    "Toen we bij de rivier kwamen, was het water al zo hoog dat niemand naar de overkant kon. Vader zei dat we "
    "één nacht moesten wachten, in het café.\n"
    "De kinderen uit België en Italië vonden het een prachtig idee; na twee uur waren de ideeën op. Zoëven "
    "regende het nog, zei de coördinator.\n"
)
DANISH = (
    "Da vi kom frem til søen, var isen allerede begyndt at smelte. Bedstefar satte rygsækken fra sig, så på "
    "klokken og sagde, at vi måtte vente.\n"
    "Derude på øen lå det gule hus, og fra skorstenen steg røgen lige op. Børnene løb over broen og råbte.\n"
)
FINNISH = (
    "Kun saavuimme kylään, oli jo pimeää eikä kadulla näkynyt ketään. Isoisä istui tulen ääressä ja luki kirjaa.\n"
    "Missä te olette näin myöhään olleet, hän kysyi, emmekä me tienneet mitä vastata; kerroimme sillasta ja "
    "järven jäästä. Äiti tuli pöydän ääreen.\n"
)
ICELANDIC = (
    "Þegar við komum að vatninu var ísinn þegar farinn að bráðna. Afi setti bakpokann niður, leit á klukkuna og "
    "sagði að við yrðum að bíða.\n"
    "Þarna úti á eyjunni stóð gula húsið og úr reykháfnum steig reykurinn beint upp. Börnin hlupu yfir brúna og "
    "æptu hástöfum.\n"
)
CATALAN = (
    "Quan vam arribar al poble ja era fosc i no hi havia ningú pels carrers. L’avi seia a prop del foc i llegia "
    "un llibre.\n"
    "«Per què veniu tan tard?», va preguntar, i nosaltres no sabíem què dir; llavors vam començar a parlar de la "
    "ciutat, de la col·lecció i de la raó.\n"
)
ROMANIAN = (
    "Când am ajuns în sat, era deja întuneric şi nimeni nu mai umbla pe străzi. Bunicul stătea lângă foc şi "
    "citea o carte.\n"
    "De ce aţi venit aşa târziu, întrebă el, iar noi nu ştiam ce să răspundem; atunci am început să povestim "
    "despre râu, despre pădure şi despre toţi oamenii din vale.\n"
)
CROATIAN = (
    "Kad smo stigli u selo, već je pao mrak i na ulicama nije bilo nikoga. Djed je sjedio kraj peći i čitao "
    "knjigu.\n"
    "Zašto dolazite tako kasno, upitao je, a mi nismo znali što reći; počeli smo pričati o rijeci, o šumi, o "
    "žabama i o ljudima koji žive iza brda. Đaci su šutjeli.\n"
)
LATVIAN = (
    "Kad mēs atnācām uz ciemu, jau bija tumšs un uz ielām neviena nebija. Vectēvs sēdēja pie krāsns un lasīja "
    "grāmatu.\n"
    "Kāpēc jūs nākat tik vēlu, viņš jautāja, un mēs nezinājām, ko atbildēt; tad mēs sākām stāstīt par upi, par "
    "mežu, par ļaudīm un par ķēniņu.\n"
)
LITHUANIAN = (
    "Kai atėjome į kaimą, jau buvo tamsu ir gatvėse nebuvo nė vieno žmogaus. Senelis sėdėjo prie krosnies ir "
    "skaitė knygą.\n"
    "Kodėl taip vėlai, paklausė jis, o mes nežinojome, ką atsakyti; tada pradėjome pasakoti apie upę, apie mišką "
    "ir apie žmones, kurie gyvena už kalnų. Šį rytą snigo.\n"
)
ESTONIAN = (
    "Kui me külla jõudsime, oli juba pime ja tänavatel polnud kedagi. Vanaisa istus ahju ääres ja luges "
    "raamatut.\n"
    "Miks te nii hilja tulete, küsis ta, ja meie ei teadnud, mida öelda; siis hakkasime jutustama jõest, metsast "
    "ja inimestest, kes elavad mägede taga. Öösel sadas lund.\n"
)
UKRAINIAN = (
    "Рано-вранці, коли над річкою ще стояв туман, старий поромник вийшов на берег і довго дивився на той бік. "
    "Ніхто не кликав його вже третій день, але він усе одно готував човен.\n"
    "Прийдуть, казав він собаці, обов’язково прийдуть, куди їм подітися. Її очі були сумні, а її ґава мовчала.\n"
)
BULGARIAN = (
    "Рано сутринта, когато над реката още стоеше мъгла, старият лодкар излезе на брега и дълго гледа към другата "
    "страна. Никой не го беше викал вече трети ден, но той все пак приготвяше лодката.\n"
    "Ще дойдат, казваше той на кучето, непременно ще дойдат, къде ще ходят.\n"
)
SERBIAN = (
    "Рано ујутру, док је над реком још стајала магла, стари скелеџија изађе на обалу и дуго је гледао на другу "
    "страну. Нико га није звао већ трећи дан, али он је ипак спремао чамац.\n"
    "Доћи ће, говорио је псу, сигурно ће доћи, куда би другде. Њушка му је била мокра, љут и жедан.\n"
)
PERSIAN = (
    "وقتي به روستا رسيديم هوا تاريک شده بود و در کوچه ها کسي نبود. پدربزرگ کنار پنجره نشسته بود و کتاب مي خواند.\n"
    "چرا اينقدر دير آمديد، پرسيد، و ما نمي دانستيم چه بگوييم؛ پس از رودخانه و پل شکسته گفتيم و از مردي که گل "
    "فروخت.\n"
)
THAI = (
    "เมื่อเรามาถึงหมู่บ้านก็มืดแล้ว และไม่มีใครเดินอยู่บนถนน คุณปู่นั่งอยู่ข้างเตาไฟ อ่านหนังสือเล่มเก่า\n"
    "ทำไมมาช้าอย่างนี้ ท่านถาม เราไม่รู้จะตอบอย่างไร จึงเริ่มเล่าเรื่องแม่น้ำ เรื่องป่า "
    "และเรื่องผู้คนที่อาศัยอยู่หลังภูเขา\n"
)
VIETNAMESE = (
    "Khi chúng tôi về đến làng thì trời đã tối và không còn ai đi trên đường. Ông nội ngồi bên bếp lửa, đọc một "
    "quyển sách cũ.\n"
    "Sao các cháu về muộn thế, ông hỏi, và chúng tôi không biết trả lời thế nào; rồi chúng tôi bắt đầu kể về "
    "dòng sông, về khu rừng và những người sống sau núi.\n"
)
ESPERANTO = (
    "Kiam ni alvenis en la vilaĝon, jam estis mallume kaj neniu plu iris sur la stratoj. La avo sidis ĉe la "
    "fajro kaj legis libron.\n"
    "Kial vi venas tiel malfrue, li demandis, kaj ni ne sciis, kion diri; tiam ni ekrakontis pri la ĵaŭda tago, "
    "pri la ŝipoj kaj pri la ĝardeno de la ĥoro.\n"
)

TONES = "\u0300\u0301\u0303\u0309\u0323"


def with_tones_apart(text: str) -> str:
    """Return a Vietnamese text as windows-1258 has it: letters, and tones after them."""
    apart = ""
    for character in text:
        parts = unicodedata.normalize("NFD", character)
        letter = unicodedata.normalize("NFC", "".join(part for part in parts if part not in TONES))
        apart += letter + "".join(part for part in parts if part in TONES)
    return apart


WESTERN = ["cp1252", "iso8859_1", "iso8859_15", "mac_roman", "cp850", "cp437"]
CENTRAL = ["cp1250", "iso8859_2", "mac_latin2", "cp852"]
LEGACY = {
    "English": (ENGLISH, WESTERN),
    "German": (GERMAN, WESTERN),
    "French": (FRENCH, WESTERN),
    "Spanish": (SPANISH, WESTERN),
    "Portuguese": (PORTUGUESE, [*WESTERN, "cp860"]),
    "Italian": (ITALIAN, WESTERN),
    "Dutch": (DUTCH, WESTERN),
    "Catalan": (CATALAN, ["cp1252", "mac_roman", "cp850"]),
    "Swedish": (SWEDISH, WESTERN),
    "Danish": (DANISH, [*WESTERN, "cp865"]),
    "Finnish": (FINNISH, WESTERN),
    "Icelandic": (ICELANDIC, ["cp1252", "mac_iceland", "cp861", "cp850"]),
    "Polish": (POLISH, CENTRAL),
    "Czech": (CZECH, CENTRAL),
    "Hungarian": (HUNGARIAN, CENTRAL),
    "Romanian": (ROMANIAN, ["cp1250", "iso8859_2", "mac_romanian", "cp852", "iso8859_16"]),
    "Croatian": (CROATIAN, [*CENTRAL, "mac_croatian"]),
    "Turkish": (TURKISH, ["cp1254", "iso8859_9", "mac_turkish", "cp857"]),
    "Latvian": (LATVIAN, ["cp1257", "iso8859_13", "iso8859_4", "cp775"]),
    "Lithuanian": (LITHUANIAN, ["cp1257", "iso8859_13", "iso8859_4", "cp775"]),
    "Estonian": (ESTONIAN, ["cp1257", "cp1252", "iso8859_15", "cp775"]),
    "Esperanto": (ESPERANTO, ["iso8859_3"]),
    "Russian": (RUSSIAN, ["cp1251", "koi8_r", "iso8859_5", "cp866", "mac_cyrillic", "cp855"]),
    "Ukrainian": (UKRAINIAN, ["cp1251", "koi8_u", "iso8859_5", "cp1125", "mac_cyrillic"]),
    "Bulgarian": (BULGARIAN, ["cp1251", "iso8859_5", "cp866", "mac_cyrillic", "cp855"]),
    "Serbian": (SERBIAN, ["cp1251", "iso8859_5", "cp855", "mac_cyrillic"]),
    "Greek": (MODERN_GREEK, ["cp1253", "iso8859_7", "mac_greek", "cp737", "cp869"]),
    "Hebrew": (HEBREW, ["cp1255", "iso8859_8", "cp862"]),
    "Arabic": (ARABIC, ["cp1256", "iso8859_6", "cp720", "mac_arabic"]),
    "Persian": (PERSIAN, ["cp1256"]),
    "Thai": (THAI, ["cp874", "tis_620", "iso8859_11"]),
    "Vietnamese": (with_tones_apart(VIETNAMESE), ["cp1258"]),
    "Chinese": (CHINESE, ["gb2312", "gbk", "gb18030", "big5hkscs"]),
    "Traditional Chinese": (TRADITIONAL_CHINESE, ["big5", "big5hkscs", "cp950", "gbk", "gb18030"]),
    "Japanese": (JAPANESE, ["cp932", "shift_jis", "euc_jp", "iso2022_jp"]),
    "Korean": (KOREAN, ["euc_kr", "cp949", "johab", "iso2022_kr"]),
}
"""Each language with the encodings that were made for it; what one lacks is left out of the text."""
