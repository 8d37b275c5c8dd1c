"""Templates whose text belongs to the sentence they stand in; all others are taken out.

Only families that are wide-spread and simple: quoted foreign words, measures, typography.
"""

from collections.abc import Callable

_FIRST = frozenset(
    (
        *("nowrap", "nobr", "nobreak", "small", "smaller", "big", "larger", "em", "strong", "abbr"),
        *(
            "tooltip",
            "sup",
            "sub",
            "smallcaps",
            "sc",
            "smcaps",
            "nobold",
            "noitalic",
            "math",
            "mvar",
        ),
        *(
            "val",
            "angbr",
            "quote",
            "blockquote",
            "cquote",
            "quotation",
            "bquote",
            "ill",
            "flag",
            "chem2",
        ),
        *(
            "flagcountry",
            "interlanguage link",
            "interlanguage link multi",
            "zitat",
            "citation bloc",
        ),
        *(
            "romanization",
            "keypress",
            "key press",
            "mono",
            "code",
            "var",
            "nombre",
            "mp",
            "vanchor",
        ),
    )
)
"""The first argument is the text."""
_SECOND = frozenset(("lang", "langue", "sort", "color", "colour", "font color", "resize", "llang"))
_LAST = frozenset(("transl", "transliteration", "translit"))
_JOINED = frozenset(("unité", "unite", "date", "датум", "дата"))
_LISTS = frozenset(
    (
        *("ordered list", "unordered list", "bulleted list", "unbulleted list", "ubl", "plainlist"),
        *("plain list", "columns-list", "flatlist", "div col list", "indented plainlist"),
    )
)
"""An argument an item, or one with all items on lines. Those in infoboxes go with the infobox."""
_SHIPS = frozenset(("hms", "uss", "ss", "rms", "hmas", "hmcs", "sms", "ms", "mv", "usns", "uscgc"))
_SIGNS = {
    **{"!": "|", "=": "=", "'": "'", "'s": "'s", "-'": "'", "nbsp": " ", "spaces": " ", "zwj": ""},
    **{"ndash": "–", "mdash": "—", "en dash": "–", "em dash": "—", "spaced ndash": " – "},
    **{"snd": " – ", "spnd": " – ", "snds": " – ", "spaced mdash": " — ", "dot": " · ", "·": " · "},
    **{"•": " • ", "\\": " / ", "pi": "π", "bce": "BCE", "ce": "CE", "euro": "€", "gbp": "£"},
}
_RANGES = {"to": "to", "-": "–", "–": "–", "and": "and", "or": "or", "x": "×", "by": "by"}
_UNITS = {
    **{"km2": "km²", "m2": "m²", "m3": "m³", "km3": "km³", "sqmi": "sq mi", "sqft": "sq ft"},
    **{"c": "°C", "f": "°F", "cuft": "cu ft", "cuin": "cu in", "nmi": "nautical miles"},
}


def template_text(content: str) -> str:
    """What a template shows, given what stands between its braces; empty for most.

    Templates inside it have been resolved already.
    """
    name, *arguments = content.split("|")
    name = name.strip().replace("_", " ").lower()
    if name in _SIGNS:
        return _SIGNS[name]
    if name.startswith(("formatnum:", "lc:", "uc:", "ucfirst:", "lcfirst:")):
        return name.partition(":")[2].strip() if name[0] == "f" else content.partition(":")[2]
    positional, named = _arguments(arguments)
    if name in _FIRST:
        return _at(positional, 0) or named.get("text", "")
    if name in _SECOND:
        return _at(positional, 1) or named.get("text", "")
    if name in _LAST:
        return _at(positional, -1)
    if name in _JOINED:
        return " ".join(filter(None, positional))
    if name in _LISTS:
        return "".join(f"\n* {item.lstrip('*# ')}" for item in positional if item) + "\n"
    if name.startswith("lang-"):
        return _at(positional, 0) or named.get("text", "")
    if name in _SHIPS and positional:
        return f"{name.upper()} {positional[0]}"
    special = _SPECIAL.get(name)
    return special(positional) if special and positional else ""


def _arguments(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """Positional and named arguments; "1=..." is positional too."""
    positional: list[str] = []
    named: dict[str, str] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        name = name.strip()
        # A long "name" is a text that holds an equals sign.
        if not equals or len(name) > 30 or "<" in name or "/" in name:
            positional.append(argument.strip())
        elif name.isdigit() and 1 <= int(name) <= 9:
            positional += [""] * (int(name) - len(positional))
            positional[int(name) - 1] = value.strip()
        else:
            named[name.lower()] = value.strip()
    return positional, named


def _at(values: list[str], index: int) -> str:
    return values[index] if -len(values) <= index < len(values) else ""


def _measure(values: list[str]) -> str:
    """`{{convert|5|km|mi}}` is "5 km", `{{convert|5|to|6|km}}` "5 to 6 km"."""
    words = [values[0]]
    at = 1
    while at + 1 < len(values) and values[at].lower() in _RANGES:
        words += [_RANGES[values[at].lower()], values[at + 1]]
        at += 2
    unit = _at(values, at)
    words.append(_UNITS.get(unit.lower(), unit))
    if at + 2 < len(values) and values[at + 1].isdigit() and unit in ("ft", "st", "lb", "yd"):
        words += values[at + 1 : at + 3]  # feet and inches
    return " ".join(filter(None, words))


def _fraction(values: list[str]) -> str:
    if len(values) == 3:
        return f"{values[0]} {values[1]}/{values[2]}"
    return "/".join(values[:2]) if len(values) == 2 else f"1/{values[0]}"


def _nihongo(values: list[str]) -> str:
    """`{{nihongo|English|kanji|romaji}}` is "English (kanji, romaji)"."""
    rest = ", ".join(filter(None, values[1:3]))
    if not values[0]:
        return rest
    return f"{values[0]} ({rest})" if rest else values[0]


_SPECIAL: dict[str, Callable[[list[str]], str]] = {
    "convert": _measure,
    "cvt": _measure,
    "frac": _fraction,
    "fraction": _fraction,
    "nihongo": _nihongo,
    "hlist": ", ".join,
    "chem": "".join,
    "gaps": "".join,
    "circa": lambda values: f"c. {values[0]}",
    "c.": lambda values: f"c. {values[0]}",
    "as of": lambda values: f"as of {values[0]}",
    "ship": lambda values: " ".join(filter(None, values[:2])),
    "s": lambda values: f"{''.join(values[:2])} siècle",
    "us$": lambda values: f"${values[0]}",
    "usd": lambda values: f"${values[0]}",
    "e": lambda values: f"×10^{values[0]}",
}
