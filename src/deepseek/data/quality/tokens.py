"""One chunk between white space to tokens, by the rules that English pipelines agree on.

The thresholds of Gopher and FineWeb are counted in tokens of spaCy's English tokenizer, as in
datatrove: punctuation stands alone, contractions fall in two, abbreviations and addresses stay
whole. The rules here are those of its affixes and infixes; chunks repeat, so each is cut once.
"""

import re
import unicodedata

_PUNCTUATION = "…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪"
_QUOTES = "'\"”“`‘´’‚„»«「」『』（）〔〕【】《》〈〉⟦⟧"
_CURRENCY = "$£€¥฿₽﷼₴₠₡₢₣₤₥₦₧₨₩₪₫₭₮₯₰₱₲₳₵₶₷₸₹₺₻₼₾"
_SINGLE = re.escape(_PUNCTUATION + _QUOTES)
_UNITS = (
    "km km² km³ m m² m³ dm dm² dm³ cm cm² cm³ mm mm² mm³ ha µm nm yd in ft kg g mg µg t lb oz "
    "m/s km/h mph hPa Pa mbar mb MB kb KB gb GB tb TB T G M K %"
)
_UNIT = "|".join(sorted(map(re.escape, _UNITS.split()), key=len, reverse=True))
_PREFIX = re.compile(
    rf"§|%|=|—|–|\+(?![0-9])|\.\.+|[{_SINGLE}]|(?:US|C|A)\$|[{re.escape(_CURRENCY)}]"
)
_SUFFIX = re.compile(
    rf"(?:\.\.+|[{_SINGLE}—–]|['’][sS]|(?<=[0-9])\+|(?<=°[FfCcKk])\."
    rf"|(?<=[0-9])[{re.escape(_CURRENCY)}]|(?<=[0-9])(?:{_UNIT})"
    rf"|(?<=[0-9a-zß-öø-ÿ%²\-+{_SINGLE}])\.|(?<=[A-ZÀ-ÖØ-Þ][A-ZÀ-ÖØ-Þ])\.)$"
)
_LETTER = r"[^\W\d_]"
_INFIX = re.compile(
    rf"\.\.+|…|(?<=[0-9])[+\-*^](?=[0-9-])"
    rf"|(?<=[a-zß-öø-ÿ{re.escape(_QUOTES)}])\.(?=[A-ZÀ-ÖØ-Þ{re.escape(_QUOTES)}])"
    rf"|(?<={_LETTER}),(?={_LETTER})|(?<=[^\W_])(?:---|--|——|[-–—~])(?={_LETTER})"
    rf"|(?<=[^\W_])[:<>=/](?={_LETTER})"
)
_ADDRESS = re.compile(
    r"(?:(?:https?|ftp|mailto)://\S+|(?:[\w.+-]+@)?(?:[A-Za-z0-9](?:[\w-]*[A-Za-z0-9])?\.)+"
    r"[a-z]{2,}(?::\d{2,5})?(?:[/?#]\S*)?)$"
)
_CONTRACTION = re.compile(r"(.+)(n['’]t|['’](?:m|re|ve|ll|d|s|em))$", re.IGNORECASE)
_VERBS = frozenset(
    "ai are ca could did do does had has have is might must need ought should wo was were would "
    "i you he she it we they who what when where why how there that this these those let".split()
)
_WHOLE = frozenset(
    "a.m. p.m. Adm. Bros. co. Co. Corp. D.C. Dr. e.g. E.g. E.G. Gen. Gov. i.e. I.e. I.E. Inc. "
    "Jr. Ltd. Md. Messrs. Mo. Mont. Mr. Mrs. Ms. Ph.D. Prof. Rep. Rev. Sen. St. vs. v.s. Jan. "
    "Feb. Mar. Apr. Jun. Jul. Aug. Sep. Sept. Oct. Nov. Dec. Ala. Ariz. Ark. Calif. Colo. Conn. "
    "Del. Fla. Ga. Ia. Id. Ill. Ind. Kan. Kans. Ky. La. Mass. Mich. Minn. Miss. N.C. N.D. N.H. "
    "N.J. N.M. N.Y. Neb. Nebr. Nev. Okla. Ore. Pa. S.C. Tenn. Va. Wash. Wis. 'em 'til and/or "
    "C++ c++ \\n \\t".split()
)
_FACES = frozenset(
    ":) :-) :)) :-)) :))) (: (-: =) (= :] :-] [: [-: [= =] :o) (o: :} :-} 8) 8-) (-8 ;) ;-) (; "
    "(-; :( :-( :(( :((( ): )-: =( >:( :') :'( :/ :-/ =/ =| :| :-| ]= =[ :1 :P :-P :p :-p :O "
    ":-O :o :-o :0 :-0 :() >:o :* :-* :3 :-3 =3 :> :-> :X :-X :x :-x :D :-D ;D ;-D =D xD XD xDD "
    "XDD 8D 8-D ^_^ >.< >.> <.< ._. ;_; -_- v.v v_v o_o o_O O_o O_O 0_o o_0 0_0 o.O O.o O.O o.o "
    "0.0 o.0 0.o @_@ <3 <33 </3 (^_^) (-_-) (*_*) "
    "''".split()
)
_VERBS_BARE = "are ca could did do does had has have is might must need should was were wo".split()
_BARE = {"id": 1, "im": 1, "ive": 1, "cannot": 3, "gonna": 3, "gotta": 3} | {
    f"{verb}nt": len(verb) for verb in _VERBS_BARE
}
"""Words that are two, and where the second begins: contractions without their apostrophe, too."""
_LETTER_STOP = re.compile(r"[a-zäöüA-Z]\.$")  # a lone letter keeps its full stop: initials
MAX_CHUNK = 1_000
"""Characters from which a chunk is no word any more: it stays whole."""


def split_chunk(chunk: str) -> list[str]:
    """The tokens of a text without white space."""
    if chunk.isalpha() or chunk.isdigit() or len(chunk) > MAX_CHUNK:
        return _contracted(chunk)
    return _with_faces(_around_affixes(chunk))


def _around_affixes(chunk: str) -> list[str]:
    """What stands before and behind is taken off sign by sign, then the middle is cut."""
    front: list[str] = []
    back: list[str] = []
    while chunk and not _is_whole(chunk):
        before = _PREFIX.match(chunk)
        if before and _is_whole(chunk[before.end() :]):
            front.append(before[0])
            chunk = chunk[before.end() :]
            break
        after = _SUFFIX.search(chunk, before.end() if before else 0)
        if not before and not after:
            break
        start, end = (before.end() if before else 0), (after.start() if after else len(chunk))
        if before:
            front.append(before[0])
        if after:
            back.append(after[0])
        chunk = chunk[start:end]
    back.reverse()
    if not chunk:
        return front + back
    return front + _middle(chunk) + back


def _middle(chunk: str) -> list[str]:
    """What is left between prefixes and suffixes: one token, or several around its infixes."""
    parts = _contracted(chunk)
    if len(parts) > 1 or _is_whole(chunk) or _ADDRESS.match(chunk):
        return parts
    found, start = [], 0
    for match in _INFIX.finditer(chunk):
        if match.start() > start:
            found.append(chunk[start : match.start()])
        found.append(match[0])
        start = match.end()
    if start < len(chunk):
        found.append(chunk[start:])
    return found


def _with_faces(tokens: list[str]) -> list[str]:
    """Neighbours that make a face are one token."""
    found: list[str] = []
    i = 0
    while i < len(tokens):
        n = next((n for n in (4, 3, 2) if "".join(tokens[i : i + n]) in _FACES), 1)
        n = min(n, len(tokens) - i)
        found.append("".join(tokens[i : i + n]))
        i += n
    return found


def _is_whole(chunk: str) -> bool:
    if chunk in _WHOLE or chunk in _FACES or _LETTER_STOP.match(chunk):
        return True
    match = _CONTRACTION.match(chunk)
    return match is not None and match[1].lower() in _VERBS


def _contracted(chunk: str) -> list[str]:
    place = 0 if chunk.isupper() else _BARE.get(chunk.lower(), 0)
    if place:
        return [chunk[:place], chunk[place:]]
    match = _CONTRACTION.match(chunk)
    if match and match[1].lower() in _VERBS:
        return [match[1], match[2]]
    return [chunk]


def folded(token: str) -> str:
    """A token without case, accents and punctuation, its numbers 0; empty if nothing is left."""
    if token.isascii() and token.isalpha():
        return token.lower()
    plain = unicodedata.normalize("NFD", token.lower())
    kept = "".join(c for c in plain if c.isalnum())
    return re.sub(r"\d+", "0", kept)
