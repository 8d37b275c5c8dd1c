"""MediaWiki dumps, and wikitext to prose."""

import bz2
import os
import re
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import IO
from xml.sax.saxutils import escape

import pytest

from llmstages.collect.sources.records import BrokenInput, RawDocument, Skipped
from llmstages.collect.sources.wikipedia import MAX_PAGE_CHARACTERS, read_wikipedia
from llmstages.collect.sources.wikitext import Names, is_disambiguation, wikitext_to_text

SITE = """<siteinfo><sitename>Wikipedia</sitename>
<base>https://de.wikipedia.org/wiki/Wikipedia:Hauptseite</base>
<namespaces><namespace key="0" case="first-letter" /><namespace key="1">Diskussion</namespace>
<namespace key="6">Datei</namespace><namespace key="14">Kategorie</namespace></namespaces>
</siteinfo>"""


def page(
    title: str, text: str, ns: str | None = "0", more: str = "", model: str = "wikitext"
) -> str:
    number = f"<ns>{ns}</ns>" if ns is not None else ""
    return (
        f"<page><title>{escape(title)}</title>{number}<id>1</id>{more}<revision><id>2</id>"
        f"<timestamp>2024-05-06T07:08:09Z</timestamp><contributor><username>A</username>"
        f"</contributor><comment>a [[comment]]</comment><model>{model}</model>"
        f'<text xml:space="preserve">{escape(text)}</text></revision></page>\n'
    )


def dump(*pages: str, version: str = "0.11", site: str = SITE) -> str:
    return (
        f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-{version}/" '
        f'version="{version}" xml:lang="de">{site}{"".join(pages)}</mediawiki>'
    )


def read(stream: IO[bytes] | bytes) -> tuple[list[RawDocument], Counter[str], str | None]:
    """Documents, what was skipped, and why the rest is broken."""
    documents: list[RawDocument] = []
    skipped: Counter[str] = Counter()
    try:
        for found in read_wikipedia(BytesIO(stream) if isinstance(stream, bytes) else stream, "w"):
            if isinstance(found, RawDocument):
                documents.append(found)
            elif isinstance(found, Skipped):
                skipped[found.reason] += found.count
    except BrokenInput as error:
        return documents, skipped, str(error)
    return documents, skipped, None


# -------------------------------------------------------------------------------------------------
# dumps


def test_articles_of_a_dump() -> None:
    documents, skipped, broken = read(
        dump(
            page("Öl & Wasser", "'''Öl''' ist & bleibt [[Fett|fett]]."),
            page("Oel", "#WEITERLEITUNG [[Öl & Wasser]]", more='<redirect title="Öl" />'),
            page("Oil", "#REDIRECT [[Öl & Wasser]]"),
            page("Diskussion:Öl", "Ich meine, nein.", ns="1"),
            page("Bank", "'''Bank''' steht für:\n{{Begriffsklärung}}"),
            page("Common.css", "a { b: c }", model="css"),
            page("Leer", "{{Vorlage}}"),
            page("Zwei", "Der zweite Artikel."),
        ).encode()
    )
    first, second = documents
    assert first.text == "Öl ist & bleibt fett."
    assert first.url == "https://de.wikipedia.org/wiki/%C3%96l_%26_Wasser"
    assert first.metadata == {
        "file": "w",
        "title": "Öl & Wasser",
        "date": "2024-05-06T07:08:09Z",
        "language": "de",
    }
    assert (first.ordinal, second.ordinal, second.text) == (0, 1, "Der zweite Artikel.")
    assert skipped == {
        "redirect": 2,
        "not an article": 1,
        "disambiguation page": 1,
        "not wikitext": 1,
        "empty page": 1,
    }
    assert broken is None


@pytest.mark.parametrize("version", ["0.3", "0.10", "0.11"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_versions_and_encodings(version: str, encoding: str) -> None:
    documents, _, broken = read(dump(page("A", "Größe 5 €."), version=version).encode(encoding))
    assert [document.text for document in documents] == ["Größe 5 €."]
    assert broken is None


def test_old_exports_have_no_namespace_numbers() -> None:
    pages = [page(title, "Text.", ns=None) for title in ("A", "Diskussion:A", "2001: Odyssee")]
    documents, skipped, _ = read(dump(*pages).encode())
    assert [document.metadata["title"] for document in documents] == ["A", "2001: Odyssee"]
    assert skipped == {"not an article": 1}


def test_a_dump_without_a_description_of_the_wiki() -> None:
    documents, skipped, _ = read(dump(page("A", "Text. [[File:a.jpg|thumb|b]]"), site="").encode())
    assert [document.text for document in documents] == ["Text."]
    assert documents[0].url is None
    assert not skipped


def test_of_several_revisions_the_last_counts() -> None:
    old = page("A", "Old.").removesuffix("</page>\n")
    new = page("A", "New.")[len("<page><title>A</title><ns>0</ns><id>1</id>") :]
    documents, _, broken = read(dump(old + new).encode())
    assert [document.text for document in documents] == ["New."]
    assert broken is None


def test_a_dump_that_is_cut_off_keeps_the_pages_before() -> None:
    data = dump(page("A", "One."), page("B", "Two."), page("C", "Three.")).encode()
    documents, _, broken = read(data[: data.index(b"Three")])
    assert [document.text for document in documents] == ["One.", "Two."]
    assert broken is not None
    assert broken.startswith("the dump is cut off")


def test_broken_xml_keeps_the_pages_before() -> None:
    data = dump(page("A", "One."), page("B", "Two.")).replace("Two.", "a < b &nothing; c")
    documents, _, broken = read(data.encode())
    assert [document.text for document in documents] == ["One."]
    assert broken is not None
    assert broken.startswith("broken XML")


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ('<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>', "it has a document type"),
        ("<rss/>", "its root is <rss>"),
    ],
)
def test_other_xml_is_refused(start: str, message: str) -> None:
    _, _, broken = read((start + dump(page("A", "&b;"))).encode())
    assert broken is not None
    assert message in broken


def test_a_huge_page_is_passed_over_in_little_memory() -> None:
    class Stream:
        """A page of more than the limit between two others."""

        def __init__(self) -> None:
            first, third = page("A", "One."), page("C", "Three.")
            before, after = dump(first, page("B", "@"), third).encode().split(b"@")
            size = MAX_PAGE_CHARACTERS * 2 >> 16
            self.pieces: Iterator[bytes] = iter([before, *[b"a " * 32_768] * size, after])

        def read(self, size: int) -> bytes:
            return next(self.pieces, b"")

    tracemalloc.start()
    documents, skipped, broken = read(Stream())  # type: ignore[arg-type]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [document.text for document in documents] == ["One.", "Three."]
    assert skipped == {"page larger than 10 million characters": 1}
    assert broken is None
    assert peak < 25_000_000


# -------------------------------------------------------------------------------------------------
# wikitext


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        # links
        ("A [[b]], [[c|d]] and [[e]]s.", "A b, d and es."),
        ("[[:Category:A|the category]] [[wikt:word]]", "the category word"),
        ("Text.[[Category:A]]\n[[Kategorie:B|b]]\n[[fr:Texte]]", "Text."),
        ("See [http://x.org the site], [http://y.org] or [//z.org z].", "See the site, or z."),
        (
            "[[File:a.jpg|thumb|200px|A [[nested|link]] [http://x.org [sic]] {{c}} end]]Text.",
            "Text.",
        ),
        ("[[Datei:a.jpg|mini|Ein [Bild].]]Text.", "Text."),
        # marks
        ("'''Bold''', ''italic'' and '''''both'''''; it's", "Bold, italic and both; it's"),
        ("One line\ngoes on.\n\nAnother.", "One line goes on.\n\nAnother."),
        ("* one\n** two\n# three\n: four\n; five", "one\ntwo\nthree\nfour\nfive"),
        ("Before.\n* item\nAfter.", "Before.\nitem\nAfter."),
        ("First<br />second<br>third.", "First\nsecond\nthird."),
        ("<poem>\nOne\nTwo\n</poem>", "One\nTwo"),
        ("A<!-- no -->B __NOTOC__ C&nbsp;D &amp; E &lt; F", "AB C D & E < F"),
        ("H<sub>2</sub>O <small>x</small> <span style='a'>y</span>", "H2O x y"),
        ("<nowiki>[[not a link]] {{x}} '''</nowiki>", "[[not a link]] {{x}} '''"),
        ("----\nText.", "Text."),
        ("-{zh-hans:汉字;zh-hant:漢字}-，-{R|甲}-", "汉字，甲"),
        # references and other elements
        ('A.<ref name="x">{{cite|a=b}} [[c]]</ref> B<ref name=y/>.', "A. B."),
        ("A<ref>never closed. B.", "Anever closed. B."),
        ("A<gallery>\nFile:a.jpg|b\n</gallery> B", "A B"),
        ("<syntaxhighlight lang='c'>int {{a}};</syntaxhighlight>B", "B"),
        # formulas
        ("If <math>n+1</math> and <math>\\alpha_{1}</math>.", "If n+1 and $\\alpha_{1}$."),
        ("<math>{{a}} | b < c</math>", "${{a}} | b < c$"),
        # templates
        ("{{Infobox|a={{b|{{c}}}}|d=[[e|f]]}}\n'''G'''", "G"),
        ("A {{lang|fr|mot}} and {{lang-la|verbum}}.", "A mot and verbum."),
        ("A (; {{IPA-en|x}}; born 1900, {{x}}) was.", "A (born 1900) was."),
        ("A ({{lang-de|''Wort''}}, {{IPA|x}}) is.", "A (Wort) is."),
        ("A ({{IPA|x}}) is.", "A is."),
        ("Walk {{convert|5|km|mi}} or {{convert|6|to|7|km2}}.", "Walk 5 km or 6 to 7 km²."),
        ("{{convert|6|ft|2|in|m}}", "6 ft 2 in"),
        ("{{nowrap|5 {{x}}kg}}{{'}}s{{nbsp}}a{{snd}}b{{!}}", "5 kg's a – b|"),
        ("{{nihongo|Aikido|合気道|Aikidō}}", "Aikido (合気道, Aikidō)"),
        (
            "Three:\n{{ordered list|start=1\n| One thing\n| Two things}}\nEnd.",
            "Three:\n\nOne thing\nTwo things\n\nEnd.",
        ),
        (
            "{{frac|1|2}} {{frac|3|1|2}} {{circa|1900}} {{USS|Enterprise|CV-6}}",
            "1/2 3 1/2 c. 1900 USS Enterprise",
        ),
        ("{{quote|1=Said he.|author=X}}", "Said he."),
        ("He said . . . nothing {{x}} , at all {{y}}.", "He said . . . nothing, at all."),
        # tables
        ("A\n{| class=x\n! h\n|-\n| a || b\n{|\n| c\n|}\n|}\nB", "A\n\nB"),
        ("A\n{| class=x\n| never closed\n== H ==\nB", "A\n\nH\n\nB"),
        ("A\n|-\n| rest of a table\nB", "A B"),
        # what nothing closes
        ("A {{b [[c]] d", "A b c d"),
        ("A }} ]] b", "A b"),
    ],
)
def test_wikitext(source: str, expected: str) -> None:
    assert wikitext_to_text(source, Names({"6": "Datei", "14": "Kategorie"})) == expected


def test_sections() -> None:
    source = """Start.
== Full ==
Text.
=== Inner ===
More.
== Empty ==
== Only a table ==
{|
| a
|}
=== Also empty ===
{{x}}
== Parent ==
=== Child ===
Text of the child.
== See also ==
* [[A]]
=== Deeper ===
* [[B]]
== Einzelnachweise ==
<references />
== Last ==
End."""
    assert wikitext_to_text(source, Names()).split("\n\n") == [
        *("Start.", "Full", "Text.", "Inner", "More.", "Parent", "Child", "Text of the child."),
        *("Last", "End."),
    ]


def test_disambiguation_is_seen_by_its_template() -> None:
    assert is_disambiguation("'''A''' may be:\n* [[b]]\n{{Disambig}}")
    assert is_disambiguation("{{disambiguation|geo}}")
    assert is_disambiguation("{{Неоднозначность}}")
    assert not is_disambiguation("{{About|a|b|A (disambiguation)}} Text.")


@pytest.mark.parametrize(
    "piece",
    [
        *("{{", "[[", "{|\n", "<ref>", "(", "[[a|", "{{a|", "''", "[", "<math>", "<!--", "[//a"),
        *("<poem>", "<nowiki>", "{{ ", "[[ [", "= ", "== a", "{a{{", "-{", "__a", "{{{", " ,"),
    ],
)
def test_markup_that_nothing_closes_takes_linear_time(piece: str) -> None:
    source = piece * 20_000 + " " * 20_000 + piece
    start = time.process_time()
    wikitext_to_text(source, Names())
    is_disambiguation(source)
    assert time.process_time() - start < 2  # about 0.1; in quadratic time 10 and more


# -------------------------------------------------------------------------------------------------
# real dumps

DATA = os.environ.get("LLMSTAGES_DATA")
FOLDER = Path(DATA or "") / "wikipedia_dumps"
ENGLISH = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"


@pytest.mark.skipif(DATA is None, reason="LLMSTAGES_DATA is not set")
def test_the_english_dump() -> None:
    """206 pages and 100 redirects, as SOURCE.md says."""
    with bz2.open(FOLDER / ENGLISH) as stream:
        documents, skipped, broken = read(stream)
    assert skipped == {"redirect": 100, "disambiguation page": 8}
    assert len(documents) == 98
    assert broken is None
    prose = "\n".join(re.sub(r"\$[^$\n]*\$", "", document.text) for document in documents)
    assert 2_500_000 < len(prose) < 3_000_000
    for mark in ("[[", "]]", "{{", "}}", "{|", "|}", "<ref", "</", "<br", "&nbsp", "''", "=="):
        assert prose.count(mark) == 0, mark
    by_title = {document.metadata["title"]: document for document in documents}
    anarchism = by_title["Anarchism"]
    assert anarchism.url == "https://en.wikipedia.org/wiki/Anarchism"
    assert anarchism.text.startswith("Anarchism is a political philosophy that advocates")
    assert by_title["Aikido"].text.startswith("Aikido (合気道, Aikidō) is a modern Japanese")
    lines = anarchism.text.split("\n")
    assert "Etymology and terminology" in lines
    assert "References" not in lines


@pytest.mark.skipif(DATA is None, reason="LLMSTAGES_DATA is not set")
def test_the_other_dumps() -> None:
    with bz2.open(FOLDER / "enwiki-table-markup.xml.bz2") as stream:
        documents, skipped, broken = read(stream)
    assert (len(documents), skipped, broken) == (5, {}, None)
    assert not any("|" in document.text for document in documents)
    with bz2.open(FOLDER / "bgwiki-latest-pages-articles-shortened.xml.bz2") as stream:
        documents, skipped, broken = read(stream)
    assert (len(documents), skipped, broken) == (1, {"not an article": 2}, None)
    assert documents[0].text.startswith("Григорианският календар (понякога наричан")
    assert documents[0].metadata["language"] == "bg"
