"""PDF files and JATS articles."""

import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest

from llmstages.collect.sources.articles import read_jats, read_pdf
from llmstages.collect.sources.pdf_layout import Line, join_lines, paragraphs_of
from llmstages.collect.sources.records import BrokenInput, Found, RawDocument, Skipped

Page = Iterable[tuple[float, float, str]]


def pdf(pages: Iterable[Page], info: str = "", trailer: str = "") -> bytes:
    """A PDF with lines of text at the places given."""
    pages = list(pages)
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Count {len(pages)}/Kids["
        + " ".join(f"{5 + 2 * n} 0 R" for n in range(len(pages)))
        + "]>>",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>",
        f"<<{info}>>",
    ]
    for number, page in enumerate(pages):
        content = "".join(f"BT /F 10 Tf {x} {y} Td ({text}) Tj ET\n" for x, y, text in page)
        objects.append(
            "<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Resources<</Font<</F 3 0 R>>>>"
            f"/Contents {6 + 2 * number} 0 R>>"
        )
        objects.append(f"<</Length {len(content)}>>stream\n{content}\nendstream")
    data = b"%PDF-1.4\n"
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1")
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    start = len(data)
    data += (
        f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
        f"trailer<</Size {len(objects) + 1}/Root 1 0 R/Info 4 0 R{trailer}>>\n"
        f"startxref\n{start}\n%%EOF"
    ).encode("latin-1")
    return data


def document(data: bytes) -> RawDocument:
    (found,) = read_pdf(io.BytesIO(data), "a.pdf")
    assert isinstance(found, RawDocument)
    return found


FULL = "The quick brown fox jumps over the lazy dog near the river bank and the"


def test_pages_lose_their_heads_and_numbers() -> None:
    pages = [
        [
            (50, 780, "A Running Head"),
            (50, y, f"{word} {FULL}"),
            (50, y - 12, f"end of page {word}."),
            (300, 20, n),
        ]
        for y, word, n in ((700, "one", "- 1 -"), (690, "two", "- 2 -"), (680, "three", "- 3 -"))
    ]
    assert document(pdf(pages)).text == "\n\n".join(
        f"{word} {FULL} end of page {word}." for word in ("one", "two", "three")
    )


def test_two_pages_are_enough_to_know_a_running_head() -> None:
    pages = [
        [(50, 780, "Journal of Tests, page 1"), (50, 700, f"{FULL} first")],
        [(50, 780, "Journal of Tests, page 2"), (50, 700, "second page.")],
    ]
    # The sentence runs over the end of the page.
    assert document(pdf(pages)).text == f"{FULL} first second page."


def test_paragraphs_and_cut_words() -> None:
    page = [
        *((50, 700, FULL[:-3] + "an impos-"), (50, 688, "sible thing happened in a well-")),
        *((50, 676, "known place."), (60, 664, FULL), (50, 652, "end."), (50, 620, FULL)),
        (50, 608, "last."),
    ]
    assert document(pdf([page])).text.split("\n\n") == [
        FULL[:-3] + "an impossible thing happened in a wellknown place.",
        FULL + " end.",
        FULL + " last.",
    ]


def test_columns_are_read_one_after_the_other() -> None:
    left = [(50, 700 - 12 * n, f"left words number {n} go on") for n in range(4)]
    right = [(320, 700 - 12 * n, f"right words number {n} go on") for n in range(4)]
    expected = " ".join(text for _, _, text in left + right)
    assert document(pdf([left + right])).text == expected


def test_verse_keeps_its_lines() -> None:
    lines = [
        Line(text, 50, 50 + 5 * len(text), 700 - 12 * n, 12)
        for n, text in enumerate(
            ("Short line", "and yet another, which is a good deal longer", "short", "again")
        )
    ]
    assert paragraphs_of(lines) == [
        "Short line\nand yet another, which is a good deal longer short\nagain"
    ]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("impos-", "sible", "impossible"),
        ("the mother-", "in-law", "the mother-in-law"),
        ("Anglo-", "Saxon", "Anglo-Saxon"),
        ("pages 10-", "12", "pages 10-12"),
        ("words -", "and more", "words - and more"),
        ("cut\x02", "Word", "cutWord"),
        ("one", "two", "one two"),
    ],
)
def test_join_lines(first: str, second: str, expected: str) -> None:
    assert join_lines(first, second) == expected


def test_threads_do_not_disturb_each_other() -> None:
    words = FULL.split()
    data = pdf([[(50, 700, f"{word} {FULL}")] for word in words])
    with ThreadPoolExecutor(4) as pool:
        texts = list(pool.map(lambda _: document(data).text, range(12)))
    assert len(set(texts)) == 1
    assert texts[0].count(FULL) == len(words)


def test_pdf_metadata() -> None:
    page = [(50, 700, "Text")]
    info = "/Title(The Title)/Author(Ada)/CreationDate(D:20210203101112Z)"
    assert document(pdf([page], info)).metadata == {
        "title": "The Title",
        "author": "Ada",
        "date": "2021-02-03",
    }
    assert document(pdf([page], "/Title(Microsoft Word - x.doc)")).metadata == {}


def test_pdf_that_has_no_text_or_is_encrypted_is_counted() -> None:
    assert list(read_pdf(io.BytesIO(pdf([[]])), "a.pdf")) == [Skipped("PDF without text")]
    key = "00" * 32
    encrypt = f"/Encrypt<</Filter/Standard/V 1/R 2/O<{key}>/U<{key}>/P -44>>/ID[<{key}><{key}>]"
    data = pdf([[(50, 700, "Text")]], trailer=encrypt)
    assert list(read_pdf(io.BytesIO(data), "a.pdf")) == [Skipped("encrypted PDF")]


@pytest.mark.parametrize("data", [b"", b"%PDF-1.4\nnothing", b"\0" * 5000, b"not a PDF"])
def test_what_is_no_pdf_is_refused(data: bytes) -> None:
    with pytest.raises(BrokenInput):
        list(read_pdf(io.BytesIO(data), "a.pdf"))


def test_cut_off_pdf_ends_in_a_reason_or_in_its_text() -> None:
    data = pdf([[(50, 700, f"{word} {FULL}")] for word in ("one", "two", "three")])
    for end in range(0, len(data), 97):
        try:
            found = list(read_pdf(io.BytesIO(data[:end]), "a.pdf"))
        except BrokenInput:
            continue
        assert found


def test_pages_and_characters_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmstages.collect.sources.articles.PDF_PAGES", 2)
    pages = [[(50, 700, f"Page {word}.")] for word in ("one", "two", "three")]
    note, found = read_pdf(io.BytesIO(pdf(pages)), "a.pdf")
    assert isinstance(found, RawDocument)
    assert found.text == "Page one.\n\nPage two."
    assert "first 2 pages" in str(note)
    monkeypatch.setattr("llmstages.collect.sources.articles.PDF_CHARACTERS", 5)
    _, _, found = read_pdf(io.BytesIO(pdf(pages)), "a.pdf")
    assert isinstance(found, RawDocument)
    assert found.text == "Page one."
    monkeypatch.setattr("llmstages.collect.sources.articles.PDF_BYTES", 100)
    assert list(read_pdf(io.BytesIO(pdf(pages)), "a.pdf")) == [Skipped("PDF over 256 MiB")]


# -------------------------------------------------------------------------------------------------
# JATS

ARTICLE = """<article xmlns:xlink="http://www.w3.org/1999/xlink" xml:lang="en"><front>
<journal-meta><journal-title-group><journal-title>Journal of Tests</journal-title>
</journal-title-group></journal-meta>
<article-meta><article-id pub-id-type="doi">10.1/x</article-id>
<title-group><article-title>On <italic>E. coli</italic>
  growth</article-title></title-group>
<contrib-group><contrib><name><surname>Ada</surname></name></contrib></contrib-group>
<pub-date pub-type="epub"><day>3</day><month>2</month><year>2021</year></pub-date>
<pub-date pub-type="collection"><year>2022</year></pub-date>
<permissions><license xlink:href="https://creativecommons.org/licenses/by/4.0/"><license-p>CC BY
</license-p></license></permissions>
<abstract><p>What we did.</p></abstract>
<abstract abstract-type="graphical"><p>no picture</p></abstract></article-meta></front>
<body><sec><label>1</label><title>Introduction</title><p>As shown <xref>[1]</xref>, a
 line.</p><sec><title>Deeper</title><p>More:</p><list><list-item><p>one</p></list-item>
<list-item><p>two</p></list-item></list></sec></sec>
<sec><title>Results</title><p>Let <inline-formula><alternatives><tex-math>
\\documentclass{minimal}\\begin{document}$x^2$\\end{document}</tex-math><mml:math
xmlns:mml="m"><mml:mi>x</mml:mi><mml:mn>2</mml:mn></mml:math></alternatives></inline-formula>
be.</p>
<fig><label>Figure 1</label><caption><title>Growth.</title><p>Of cells.</p></caption></fig>
<table-wrap><label>Table 1</label><caption><p>Counts.</p></caption>
<table><tr><td>17</td></tr></table>
<table-wrap-foot><p>no foot</p></table-wrap-foot></table-wrap></sec></body>
<back><ref-list><ref><mixed-citation>no reference</mixed-citation></ref></ref-list></back>
<sub-article><front-stub/><body><p>no reply</p></body></sub-article></article>"""
TEXT = [
    *("On E. coli growth", "What we did.", "1 Introduction", "As shown [1], a line.", "Deeper"),
    *("More:", "one", "two", "Results", "Let $x^2$ be.", "Figure 1 Growth.", "Of cells."),
    "Table 1 Counts.",
]


def jats(text: str | bytes) -> list[Found]:
    data = text.encode() if isinstance(text, str) else text
    return list(read_jats(io.BytesIO(data), "a.xml"))


def test_article() -> None:
    skipped, found = jats(ARTICLE)
    assert skipped == Skipped("reply or review of an article", 1)
    assert isinstance(found, RawDocument)
    assert found.text.split("\n\n") == TEXT
    assert found.metadata == {
        "title": "On E. coli growth",
        "journal": "Journal of Tests",
        "doi": "10.1/x",
        "date": "2021-02-03",
        "language": "en",
        "license": "https://creativecommons.org/licenses/by/4.0/",
    }


def test_articles_of_a_collection_come_one_by_one() -> None:
    one = "<article><body><p>Number {}</p></body></article>"
    whole = "<x:set xmlns:x='y'><x:record>{}</x:record></x:set>"
    found = jats(whole.format("</x:record><x:record>".join(one.format(n) for n in range(3))))
    assert found == [RawDocument("a.xml", n, f"Number {n}") for n in range(3)]
    spaced = one.replace(
        "<article>", '<article xmlns="https://jats.nlm.nih.gov/ns/archiving/1.0/">'
    )
    assert jats(spaced.format(7)) == [RawDocument("a.xml", 0, "Number 7")]


def test_what_stands_before_the_damage_is_sound() -> None:
    data = b"<set><article><body><p>One</p></body></article><article><body><p>Two</p></bo"
    reader = read_jats(io.BytesIO(data), "a.xml")
    assert next(reader) == RawDocument("a.xml", 0, "One")
    with pytest.raises(BrokenInput, match="broken XML"):
        next(reader)


def test_other_xml_is_counted() -> None:
    assert jats("<html><body><p>One</p></body></html>") == [Skipped("XML without an article")]
    assert jats("<article><front/></article>") == [Skipped("article without text")]
    with pytest.raises(BrokenInput):
        jats("")
    with pytest.raises(BrokenInput):
        jats(b"<article>\0</article>")


def test_entities_are_neither_fetched_nor_expanded() -> None:
    levels = "".join(f'<!ENTITY l{n} "{"".join([f"&l{n - 1};"] * 10)}">' for n in range(1, 12))
    external = (
        '<!DOCTYPE article PUBLIC "-//NLM//DTD JATS//EN" "http://localhost:9/JATS.dtd"'
        f' [<!ENTITY l0 "ha"> {levels} <!ENTITY f SYSTEM "file:///etc/passwd">]>'
    )
    article = "<article><body><p>One &f; &l11; two &eacute;&#233;</p></body></article>"
    try:
        (found,) = jats(external + article)
    except BrokenInput:
        pass  # libxml2 may refuse to look at such a file at all
    else:
        assert isinstance(found, RawDocument)
        assert found.text == "One two éé"
    plain = '<!DOCTYPE article SYSTEM "JATS.dtd" [<!ENTITY f SYSTEM "file:///etc/passwd">]>'
    (found,) = jats(plain + article.replace("&l11; ", ""))
    assert isinstance(found, RawDocument)
    assert found.text == "One two éé"


def test_endless_and_deep_articles_end() -> None:
    class Endless(io.BytesIO):
        def __init__(self, paragraph: bytes) -> None:
            super().__init__()
            self.next_block, self.block = b"<article><body>", paragraph * 100

        def read(self, size: int | None = -1) -> bytes:
            block, self.next_block = self.next_block, self.block
            return block

    with pytest.raises(BrokenInput, match="over 500,000 elements"):
        list(read_jats(Endless(b"<p>more</p>"), "a.xml"))
    with pytest.raises(BrokenInput, match="over 32 MiB"):
        list(read_jats(Endless(b"<p>" + b"more" * 1000 + b"</p>"), "a.xml"))
    with pytest.raises(BrokenInput):
        jats("<article>" + "<sec>" * 100_000)
