"""How a word, which is what stands between spaces, is cut into tokens: rules for English.

They cut as the rule-based tokenizer of spaCy does, with which the published thresholds are commonly
used: punctuation is split off both ends, and inside a word hyphens, slashes and ellipses are; the
`n't` of a contraction is a token; abbreviations, numbers and web addresses stay whole.
"""

import re

SENTENCE_ENDS = frozenset(
    "!.?։؝؞؟۔܀܁܂߹࠷࠹࠽࠾।॥၊။።፧፨᙮᜵᜶។៕᠃᠉᥄᥅᪨᪩᪪᪫᭎᭏᭚᭛᭞᭟᭽᭾᭿᰻᰼"
    "᱾᱿․‼‽⁇⁈⁉⳹⳺⳻⸮⸼⹓⹔⹠⹡。꓿꘎꘏꛳꛷꡶꡷꣎꣏꤯꧈꧉꩝꩞꩟꫰꫱꯫︒︕︖﹒﹖﹗！．？｡"
)
"""Unicode's sentence terminals."""

# Sets of characters, for use within brackets.
_MARKS = (
    r""",:;!?¿؟¡()\[\]{}<>_#*&。？！，、；：～·।،۔؛٪"""
    r"""'"”“`‘´’‚„»«「」『』（）〔〕【】《》〈〉—–"""
)
_MONEY = "$£€¥₹"
_QUOTES = "'\"”“`‘´’"
_PICTURES = "©®°™☆★→•✓✔\ufffd"
_UNITS = (
    r"km²?|m²|[cdm]?m|ha|yd|in|ft|[kmµ]?g|lb|oz|m/s|km/h|kmh|mph|h?Pa|mbar|[kmgt]b|[KMGT]B|[TGMK]|%"
)
_ELLIPSIS = r"\.\.+|…"
_LETTER, _LETTER_OR_DIGIT = r"[^\W\d_]", r"[^\W_]"

_OPENING = re.compile(rf"{_ELLIPSIS}|[{_MARKS}{_MONEY}{_PICTURES}§%=]|\+(?![0-9])")
_CLOSING = re.compile(
    rf"(?:{_ELLIPSIS}|['’][sS]|[{_MARKS}{_PICTURES}]"
    rf"|(?<=[0-9])(?:[+{_MONEY}]|{_UNITS})"  # 10km, 50%
    rf"|(?<=[^\W_A-Z])\.|(?<=[{_MARKS}%²+-])\.|(?<=[A-Z][A-Z])\.)$"  # but not J. and U.S.
)
_LONGEST_CLOSING = 16
"""Characters at the end of a word that are searched."""
_INSIDE = re.compile(
    rf"({_ELLIPSIS}|[{_PICTURES}]"
    r"|(?<=[0-9])[+\-*^](?=[0-9-])"  # 5-6
    rf"|(?<=[a-z{_QUOTES}])\.(?=[A-Z{_QUOTES}])"  # end.Start
    rf"|(?<={_LETTER}),(?={_LETTER})"
    rf"|(?<={_LETTER_OR_DIGIT})(?:---?|-|——?|–|~|[:<>=/])(?={_LETTER}))"  # well-known, and/or
)
_ADDRESS = re.compile(
    r"(?:[\w+.-]{2,}://)?(?:\S+@)?(?:(?:[^\W_][\w-]*\.)+[^\W\dA-Z_]{2,63}|\d{1,3}(?:\.\d{1,3}){3})"
    r"(?::\d{2,5})?(?:[/?#]\S*)?"
)
_CONTRACTION = re.compile(rf"({_LETTER}+?)(n['’]t|['’](?:ll|re|ve|d|m|s))((?:['’](?:ve|re))?)")
_WHOLE_WORDS = """
Mr. Mrs. Ms. Dr. Prof. Messrs. St. Jr. Mt. Gen. Gov. Adm. Rep. Rev. Sen. Inc. Ltd. Corp. Co. co.
Bros. vs. v.s. e.g. E.g. E.G. i.e. I.e. I.E. a.m. p.m. Ph.D. D.C. N.Y. N.J. N.C. S.C. Jan. Feb.
Mar. Apr. Jun. Jul. Aug. Sep. Sept. Oct. Nov. Dec. Ala. Ariz. Ark. Calif. Colo. Conn. Del. Fla.
Ga. Ill. Ind. Kan. Ky. La. Mass. Md. Mich. Minn. Miss. Mo. Mont. Neb. Nev. Okla. Ore. Pa. Tenn.
Va. Wash. Wis. and/or w/o o'clock ma'am C++ '' 's 'S 'd 'em 'll 're 'cause 'bout :) :-) ;) ;-)
:( :-( :D :-D :P :/ ): (; (: [: ]: :] :* 8) <3 a. b. c. d. e. f. g. h. i. j. k. l. m. n. o. p.
q. r. s. t. u. v. w. x. y. z.
"""
_WHOLE = frozenset(_WHOLE_WORDS.split())

LONGEST_WHOLE_WORD = max(map(len, _WHOLE))
"""Characters; a longer word with a full stop at its end is no abbreviation."""


def split_word(word: str) -> list[str]:
    """The tokens of what stands between spaces."""
    opening, closing = [], []
    while word and word not in _WHOLE:
        prefix = _OPENING.match(word)
        rest = word[prefix.end() :] if prefix else word
        if prefix:
            opening.append(prefix.group())
            if rest in _WHOLE:
                word = rest
                break
        suffix = _CLOSING.search(rest, max(0, len(rest) - _LONGEST_CLOSING))
        if suffix:
            closing.append(suffix.group())
            rest = rest[: suffix.start()]
        if not (prefix or suffix):
            break
        word = rest
    if not word or word in _WHOLE or _ADDRESS.fullmatch(word):
        inner = [word]
    elif contraction := _CONTRACTION.fullmatch(word):
        inner = list(contraction.groups())
    else:
        inner = _INSIDE.split(word)
    return [token for token in (*opening, *inner, *reversed(closing)) if token]
