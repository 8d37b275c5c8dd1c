"""Wikitext to clean prose.

Links give their text, headings and list items are lines. References, pictures, categories, tables
and nearly all templates are taken out (`wikitext_templates` has those that stay), and so are
sections of links and sources, and headings under which nothing is left.

Everything is done from the inside out by regular expressions that take linear time. A full parser,
mwparserfromhell, was measured at a tenth of the speed, and left more markup in the text.
"""

import html
import re
from collections.abc import Callable

from llmstages.collect.sources.wikitext_names import (
    APPENDED_SECTIONS,
    DISAMBIGUATION,
    MEDIA_ALIASES,
)
from llmstages.collect.sources.wikitext_templates import template_text

_NEWLINE = "\v"
"""A new line that is meant; in wikitext lines that follow each other are one paragraph."""
_MAX_DEPTH = 40
"""Nested deeper, markup is taken for broken."""
_DROPPED = "ref|references|gallery|timeline|score|syntaxhighlight|source|imagemap|graph|mapframe|"
_DROPPED += "maplink|hiero|templatestyles|templatedata|section|inputbox|categorytree|ce|chem"
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_DROPPED_TAG = re.compile(rf"<(/?)({_DROPPED})\b([^<>]*)>", re.IGNORECASE)
_MARKS = re.compile(r"[\[\]{}|'=<>*:_~-]")
# A caption may hold single brackets.
_LINK = re.compile(r"\[\[([^\[\]]*+(?:(?:\[[^\[\]]*+\]|[\[\]](?![\[\]]))[^\[\]]*+)*+)\]\]")
_ADDRESS = re.compile(
    r"\[(?:(?:https?|ftp|news|irc)?:?//|mailto:)[^\s\[\]]*+"
    r"([^\[\]\n]*+(?:\[[^\[\]\n]*+\][^\[\]\n]*+)*+)\]",
    re.IGNORECASE,
)
_TEMPLATE = re.compile(r"\{\{([^{}]*+(?:[{}](?![{}])[^{}]*+)*+)\}\}")
_TEMPLATE_NAME = re.compile(r"\{\{\s*+([^{}|\n]{2,40}+)[|}\n]")
_PARAMETER = re.compile(r"\{\{\{[^{}|]*+\|?([^{}]*+)\}\}\}")
_VARIANT = re.compile(r"-\{([^{}]*+)\}-")
_BREAK = re.compile(
    r"<(?:br|hr|/?(?:p|div|li|ul|ol|dl|dd|dt|blockquote|center|table|tr))\b[^<>]*>", re.IGNORECASE
)
_TAG = re.compile(r"</?[a-z][^<>]*>", re.IGNORECASE)
_QUOTES = re.compile(r"'{2,}")
_MAGIC = re.compile(r"__[^\W\d_]+__")
_LIST_MARKS = ("*", "#", ":", ";")
_LANGUAGE_LINK = re.compile(r"(?:[a-z]{2,3}|simple|[a-z]{2,3}-[a-z-]{2,12}):(?!//)")
_WORD_LINK = re.compile(
    r"(?:wikt|wiktionary|w|s|wikisource|commons|c|q|b|n|d|species|m):", re.IGNORECASE
)

_PARENTHESIS = re.compile(r"\(([^()]*+)\)|（([^（）]*+)）")
_REPEATED = re.compile(r"([,;，；、])(?:\s*[,;，；、])+")
_SPACE_BEFORE = re.compile(r" (?<!\. )([.,])(?=\s|\Z)(?! \.)")  # but not in ". . ."
_COMMAS = re.compile(r",(?: ?,)+ ?")
_SPACES = re.compile(r" {2,}")


def _element(names: str) -> re.Pattern[str]:
    """Matches an element that holds no other of its kind; group 2 is its content."""
    content = rf"[^<]*+(?:<(?!/?(?:{names})\b)[^<]*+)*+"
    return re.compile(rf"<({names})\b[^<>]*>({content})</\1\s*>", re.IGNORECASE)


_NOWIKI = _element("nowiki")
_MATH = _element("math")
_POEM = _element("poem|pre")


class Names:
    """Which prefixes of links are namespaces, and which of them pictures or categories."""

    def __init__(self, namespaces: dict[str, str] | None = None) -> None:
        by_number = {key: name.lower() for key, name in (namespaces or {}).items() if name}
        self._all = frozenset(by_number.values()) | {"talk", "user", "category", "template", "help"}
        self._unseen = (
            MEDIA_ALIASES
            | {"category", by_number.get("14", "category")}
            | {by_number.get("6", "file"), by_number.get("-2", "media")}
        )

    def is_namespace(self, prefix: str) -> bool:
        return prefix.strip().replace("_", " ").lower() in self._all

    def link_text(self, link: str) -> str:
        """What `[[link]]` shows."""
        target, bar, text = link.partition("|")
        target = target.strip()
        prefix, colon, rest = target.partition(":")
        if colon:
            if prefix.strip().replace("_", " ").lower() in self._unseen:
                return ""
            if _WORD_LINK.match(target):
                target = rest
            elif _LANGUAGE_LINK.match(target):
                return ""  # the same article in another language
        return text if bar and text.strip() else target.removeprefix(":")


def is_disambiguation(source: str) -> bool:
    """Whether a page lists the meanings of a word; seen by its template."""
    if "__DISAMBIG__" in source:
        return True
    names = (found.group(1) for found in _TEMPLATE_NAME.finditer(source))
    return any(name.strip().replace("_", " ").lower() in DISAMBIGUATION for name in names)


def wikitext_to_text(source: str, names: Names) -> str:
    """The prose of a page; empty if there is none."""
    text = _NOWIKI.sub(lambda found: _escaped(found.group(2)), _COMMENT.sub("", source))
    text = _MATH.sub(_formula, _without_elements(text))
    text = _ADDRESS.sub(lambda found: found.group(1).strip(), text)
    text = _repeatedly(_LINK, lambda found: names.link_text(found.group(1)), text)
    text = _PARAMETER.sub(r"\1", text)
    text = _repeatedly(_TEMPLATE, lambda found: template_text(found.group(1)), text)
    text = _VARIANT.sub(lambda found: _variant(found.group(1)), _without_tables(text))
    text = _POEM.sub(lambda found: _NEWLINE + found.group(2).replace("\n", _NEWLINE), text)
    text = _TAG.sub("", _BREAK.sub(_NEWLINE, text))
    text = _MAGIC.sub("", _QUOTES.sub("", text))
    # Markup that nothing closes.
    for mark in ("{{", "}}", "[[", "]]", "{|", "|}"):
        text = text.replace(mark, "")
    return _sections(_tidy(html.unescape(text)))


def _repeatedly(
    pattern: re.Pattern[str], replace: Callable[[re.Match[str]], str], text: str
) -> str:
    """Replaces from the inside out until nothing is left."""
    for _ in range(_MAX_DEPTH):
        text, count = pattern.subn(replace, text)
        if not count:
            break
    return text


def _escaped(text: str) -> str:
    """Text that is no markup, spelled so that it is not taken for it."""
    return _MARKS.sub(lambda mark: f"&#{ord(mark.group())};", text)


def _without_elements(text: str) -> str:
    """Without references, galleries and so on; a tag that nothing closes is left out alone."""
    tags = list(_DROPPED_TAG.finditer(text))
    last_close = {tag.group(2).lower(): tag.start() for tag in tags if tag.group(1)}
    kept: list[str] = []
    at = 0
    inside = ""
    for tag in tags:
        closing, name = bool(tag.group(1)), tag.group(2).lower()
        if inside:
            if closing and name == inside:
                inside, at = "", tag.end()
            continue
        kept.append(text[at : tag.start()])
        at = tag.end()
        if not closing and not tag.group(3).endswith("/") and last_close.get(name, -1) > at - 1:
            inside = name
    return "".join(kept) + text[at:]


def _without_tables(text: str) -> str:
    """Without tables; one that nothing closes ends at the next heading."""
    if "{|" not in text:
        return text
    kept: list[str] = []
    depth = 0
    for line in text.split("\n"):
        start = line.lstrip(" \t:*#")
        if start.startswith("{|"):
            depth += 1
        elif depth and start.startswith("|}"):
            depth -= 1
            if not depth:
                kept.append(start[2:])
        elif not depth or _heading(start):
            depth = 0
            kept.append(line)
    return "\n".join(kept)


def _variant(content: str) -> str:
    """Of Chinese text in several scripts the first."""
    content = content.rpartition("|")[2]
    first = content.partition(";")[0]
    return first.partition(":")[2].strip() if ":" in first else content


def _formula(found: re.Match[str]) -> str:
    """A formula in letters as it is, any other in TeX between dollar signs."""
    tex = " ".join(html.unescape(found.group(2)).replace("\\displaystyle", "").split())
    if "\\" in tex or "{" in tex:
        tex = f"${tex}$"
    return _escaped(tex.replace("&", "&amp;"))


def _tidy(text: str) -> str:
    """Spaces and parentheses as they were before templates were taken out."""
    for space in "\t\u00a0\u2009\u202f":
        text = text.replace(space, " ")
    for _ in range(2):  # parentheses in parentheses
        text = _PARENTHESIS.sub(_parenthesis, text)
    text = _COMMAS.sub(", ", _SPACES.sub(" ", text))
    return _SPACE_BEFORE.sub(r"\1", text)


def _parenthesis(found: re.Match[str]) -> str:
    """Without separators that separate nothing; empty if nothing is left inside."""
    content = found.group(1) if found.group(1) is not None else found.group(2)
    inside = _REPEATED.sub(r"\1", content).strip(" \n,;:，；、")
    return f"{found.group()[0]}{inside}{found.group()[-1]}" if inside else ""


def _heading(line: str) -> tuple[int, str] | None:
    """Level and title of a line like `== Title ==`; None for other lines."""
    line = line.rstrip()
    if not (line.startswith("=") and line.endswith("=")):
        return None
    level = min(len(line) - len(line.lstrip("=")), len(line) - len(line.rstrip("=")), 6)
    title = line[level:-level].strip()
    return (level, title) if title else None


def _sections(text: str) -> str:
    """Lines without marks, without the sections that hold no prose."""
    lines: list[str] = []
    headings: list[tuple[int, str]] = []  # those above the next line that are not written yet
    dropped = 0  # level of the section that is being left out
    joins = False  # whether the next line goes on with the last one's paragraph
    for raw in text.split("\n"):
        if heading := _heading(raw):
            level, title = heading
            joins = False
            if dropped and level > dropped:
                continue
            dropped = level if title.lower().rstrip(":") in APPENDED_SECTIONS else 0
            while headings and headings[-1][0] >= level:
                headings.pop()
            if not dropped:
                headings.append((level, title))
            continue
        if dropped or raw.startswith(("|", "!")):  # the latter is left over from a broken table
            continue
        line = raw.lstrip("*#:; ") if raw[:1] in _LIST_MARKS else raw
        pieces = [piece.strip() for piece in line.split(_NEWLINE)]
        pieces = [piece for piece in pieces if any(map(str.isalnum, piece))]
        if not pieces:
            joins = False
            if lines and lines[-1] and not line.strip():
                lines.append("")
            continue
        if headings:
            lines += [""] if lines and lines[-1] else []
            for _, title in headings:
                lines += [title, ""]
            headings.clear()
        plain = raw[:1] not in _LIST_MARKS and not line.startswith((" ", _NEWLINE))
        if joins and plain:
            pieces[0] = f"{lines.pop()} {pieces[0]}"
        lines += pieces
        joins = plain and not line.endswith(_NEWLINE)
    return "\n".join(lines).strip()
