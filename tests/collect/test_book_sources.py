"""Project Gutenberg's files and e-books."""

import io
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from llmstages.collect.sources.books import (
    CHAPTER_BYTES,
    is_gutenberg,
    read_epub,
    read_gutenberg,
    read_gutenberg_page,
)
from llmstages.collect.sources.records import BrokenInput, RawDocument, Skipped

LICENCE = re.compile(
    r"project gutenberg(?!’s archives)|\betext|e-text|small print|distributed proofread", re.I
)

MODERN = """\ufeffThe Project Gutenberg eBook of The Tale, by Ada Author

This ebook is for the use of anyone anywhere in the United States.

Title: The Tale
       or, A Longer Title

Author: Ada Author

Release Date: May 8, 2007 [eBook #12]
                Most recently updated: November 21, 2015

Language: English

*** START OF THE PROJECT GUTENBERG EBOOK THE TALE
OF A LONG TITLE ***

Produced by A. Volunteer and the Online
Distributed Proofreading Team at https://www.pgdp.net

[Transcriber's Note: spelling kept.]

THE TALE

One line
and another, produced by nobody.

*** END OF THE PROJECT GUTENBERG EBOOK THE TALE OF A LONG TITLE ***

Updated editions will replace the previous one--the old editions will
be renamed.

START: FULL LICENSE
"""
OLD = """***This is the Project Gutenberg Etext of The Tale***
*This 30th edition should be labeled tale30.txt or tale30.zip.

**Welcome To The World of Free Plain Vanilla Electronic Texts**

March, 1994  [Etext #11]

*****The Project Gutenberg Etext of The Tale, by Ada Author*****
******This file should be named tale30.txt or tale30.zip******

**START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START**
Why is this "Small Print!" statement here?
*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*

This etext was prepared by A. Volunteer from the 1889 edition.

THE TALE

One line
and another.

End of the Project Gutenberg Etext of The Tale
"""
# Of 2002: the small print is at the end, after the last line of the book.
BETWEEN = """The Project Gutenberg EBook of The Tale, by Ada Author

*** START OF THE PROJECT GUTENBERG EBOOK, THE TALE ***

THE TALE

One line
and another.

End of Project Gutenberg's The Tale, by Ada
Author

***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN EBOOKS**START***
Please read this.
*END THE SMALL PRINT! FOR PUBLIC DOMAIN EBOOKS*Ver.02/11/02*END*
"""
UNMARKED = """Project Gutenberg's The Tale, by Ada Author

This eBook is for the use of anyone anywhere at no cost.

Title: The Tale

Character set encoding: ASCII

THE TALE

One line
and another.

Ende dieses Projekt Gutenberg Etextes The Tale
"""
TALE = "THE TALE\n\nOne line\nand another."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (MODERN, TALE[:-1] + ", produced by nobody."),
        (MODERN.replace("\n", "\r\n"), TALE[:-1] + ", produced by nobody."),
        (MODERN.replace("*** START", "***START").replace("OF THE P", "OF THIS P"), None),
        (OLD, TALE),
        (BETWEEN, TALE),
        (UNMARKED, TALE),
    ],
)
def test_header_credits_and_licence_go(text: str, expected: str | None) -> None:
    assert is_gutenberg(text)
    document = read_gutenberg(text, "tale.txt", 3)
    assert document.text == (expected or TALE[:-1] + ", produced by nobody.")
    assert (document.locator, document.ordinal) == ("tale.txt", 3)


def test_what_a_header_says_becomes_metadata() -> None:
    assert read_gutenberg(MODERN, "a").metadata == {
        "title": "The Tale or, A Longer Title",
        "author": "Ada Author",
        "language": "English",
        "date": "2007-05-08",
    }
    assert read_gutenberg(OLD, "a").metadata == {
        "title": "The Tale",
        "author": "Ada Author",
        "date": "1994-03",
    }


def test_text_without_marks_stays_as_it_is() -> None:
    text = "A note on Project Gutenberg.\r\n\r\nIt is produced by volunteers.\r\n"
    assert not is_gutenberg(text)
    assert read_gutenberg(text, "a") == RawDocument("a", 0, text)


def test_several_books_in_a_file_keep_only_the_books() -> None:
    volume = "x" * 70_000
    text = read_gutenberg(f"{MODERN}\n{BETWEEN.replace('One line', volume)}", "a").text
    assert "One line" in text
    assert volume in text
    assert not LICENCE.search(text)


def test_page_of_gutenberg() -> None:
    before, after = MODERN.split("THE TALE\n\nOne line\nand another, produced by nobody.")
    page = f"""<html><head><title>x</title></head><body><pre>{before}</pre><h1>THE TALE</h1>
    <p>One line<br/>and another.</p><pre>{after}</pre></body></html>"""
    document = read_gutenberg_page(page.encode(), "a.htm")
    assert document.text == TALE
    assert document.metadata["author"] == "Ada Author"


def test_many_blank_lines_and_stars_take_no_time() -> None:
    head = "The Project Gutenberg EBook of The Tale, by Ada Author\n"
    for filler in ("\n" * 500_000, "*** " * 200_000, "End of " * 100_000, "[Title:" * 100_000):
        read_gutenberg(head + filler, "a")


@pytest.mark.skipif("LLMSTAGES_DATA" not in os.environ, reason="LLMSTAGES_DATA is not set")
def test_real_books_keep_no_line_of_the_licence() -> None:
    folder = Path(os.environ["LLMSTAGES_DATA"]) / "gutenberg_raw"
    texts = {}
    for name, encoding in (
        ("2701-0.txt", "utf-8"),
        ("9198-8.txt", "latin-1"),
        ("972.txt", "utf-8"),
    ):
        texts[name] = read_gutenberg((folder / name).read_bytes().decode(encoding), name).text
    page = (folder / "972-h.htm").read_bytes()
    assert is_gutenberg(page.decode())
    texts["972-h.htm"] = read_gutenberg_page(page, "972-h.htm").text
    for name, text in texts.items():
        assert not LICENCE.search(
            text.replace("combination of etexts", "").replace("The resulting etext", "")
        ), name
    assert texts["2701-0.txt"].startswith("MOBY-DICK;")
    assert texts["2701-0.txt"].endswith("only found another orphan.")
    assert texts["9198-8.txt"].startswith("THE COMPLETE ANGLER;")
    assert "Trouts" in texts["9198-8.txt"]
    # The two editions of one book differ in their line breaks, and hardly in their words.
    plain, marked = (set(texts[n].split()) for n in ("972.txt", "972-h.htm"))
    assert len(plain & marked) > 0.9 * len(plain | marked)


# -------------------------------------------------------------------------------------------------
# EPUB

CONTAINER = """<?xml version="1.0"?>
<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>
<rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/>
</rootfiles></container>"""
TYPE = 'media-type="application/xhtml+xml"'
XHTML_HEAD = (
    '<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops">'
    "<head><title>not read</title></head>"
)


def package(items: str, spine: str, more: str = "") -> str:
    return f"""<package xmlns="http://www.idpf.org/2007/opf">
<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>The Tale</dc:title>
<dc:creator>Ada</dc:creator><dc:creator>Bob</dc:creator><dc:language>en</dc:language></metadata>
<manifest>{items}</manifest><spine>{spine}</spine>{more}</package>"""


def epub(members: Mapping[str, str | bytes], container: str | None = CONTAINER) -> io.BytesIO:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/epub+zip")
        if container:
            archive.writestr("META-INF/container.xml", container)
        for name, content in members.items():
            archive.writestr(name, content)
    stream.seek(0)
    return stream


def one_chapter(chapter: str | bytes) -> io.BytesIO:
    items = f'<item id="a" href="a.xhtml" {TYPE}/>'
    opf = package(items, '<itemref idref="a"/>')
    return epub({"OEBPS/book.opf": opf, "OEBPS/a.xhtml": chapter})


def text_of(chapter: str | bytes) -> str:
    (document,) = read_epub(one_chapter(chapter), "b.epub")
    assert isinstance(document, RawDocument)
    return document.text


def test_chapters_come_in_the_order_of_the_spine_without_contents() -> None:
    items = "".join(
        f'<item id="{name}" href="{href}" {TYPE} {more}/>'
        for name, href, more in (
            ("one", "text/one.xhtml#start", ""),
            ("two", "text/t%20wo.xhtml", ""),
            ("nav", "nav.xhtml", 'properties="nav"'),
            ("toc", "toc.xhtml", ""),
            ("cover", "cover.xhtml", ""),
            ("links", "links.xhtml", ""),
        )
    )
    order = ("cover", "nav", "toc", "links", "two", "one", "two")
    spine = "".join(f'<itemref idref="{name}"/>' for name in order)
    guide = '<guide><reference type="toc" href="toc.xhtml"/></guide>'
    links = "".join(f'<p><a href="{n}.xhtml">Chapter {n}</a></p>' for n in range(9))
    found = list(
        read_epub(
            epub(
                {
                    "OEBPS/book.opf": package(items, spine, guide),
                    "OEBPS/text/one.xhtml": f"{XHTML_HEAD}<body><p>First</p></body></html>",
                    "OEBPS/text/t wo.xhtml": f"{XHTML_HEAD}<body><p>Second</p></body></html>",
                    "OEBPS/nav.xhtml": f"{XHTML_HEAD}<body><p>nav</p></body></html>",
                    "OEBPS/toc.xhtml": f"{XHTML_HEAD}<body><p>toc</p></body></html>",
                    "OEBPS/cover.xhtml": f'{XHTML_HEAD}<body><img src="c.jpg"/></body></html>',
                    "OEBPS/links.xhtml": f"{XHTML_HEAD}<body>{links}</body></html>",
                }
            ),
            "b.epub",
        )
    )
    metadata = {"title": "The Tale", "author": "Ada; Bob", "language": "en"}
    assert found == [RawDocument("b.epub", 0, "Second\n\nFirst", metadata=metadata)]


def test_text_of_a_chapter() -> None:
    body = """<body><h1>A <i>B</i></h1><div>loose <b>words</b>
    and <!-- no --> more<p>One&nbsp;two<br/>three&mdash;four</p></div>
    <ul><li>x</li><li><p>y</p></li></ul>
    <table><tr><td>1</td><td>2</td></tr><tr><td>3</td></tr></table>
    <pre>  keeps
   spaces</pre>
    <div class="stanza"><div class="i0">verse one</div><div class="i2">verse two</div></div>
    <p>Text<a epub:type="noteref" href="#n">1</a><span epub:type="pagebreak">17</span>.</p>
    <aside epub:type="footnote" id="n"><p>1 A note.</p></aside>
    <nav epub:type="toc"><ol><li>no</li></ol></nav><script>no</script></body></html>"""
    assert text_of(XHTML_HEAD + body).split("\n\n") == [
        *("A B", "loose words and more", "One\xa0two\nthree—four", "x", "y", "1\t2\n3"),
        *("  keeps\n   spaces", "verse one\nverse two", "Text1.", "1 A note."),
    ]


@pytest.mark.parametrize(
    ("chapter", "expected"),
    [
        (
            "<html><body><p>One<p>Two<br>three &copy; &unknown;</body>",
            "One\n\nTwo\nthree © &unknown;",
        ),
        ("<p>Größe".encode("latin-1"), "Größe"),
        ("<html><body><p>Größe</body></html>".encode(), "Größe"),
        (
            '<?xml version="1.0" encoding="utf-16"?><html><body><p>é</p></body></html>'.encode(
                "utf-16"
            ),
            "é",
        ),
        (
            "<html><body>" + "<br>".join(map(str, range(400))) + "</body></html>",
            "\n".join(map(str, range(400))),
        ),
    ],
)
def test_chapters_that_are_no_xhtml_are_read_too(chapter: str | bytes, expected: str) -> None:
    assert text_of(chapter) == expected


def test_gutenberg_e_book_loses_its_licence() -> None:
    before, after = MODERN.split("THE TALE\n\nOne line\nand another, produced by nobody.")

    def lines(text: str) -> str:
        return "".join(f"<p>{part}</p>" for part in text.split("\n\n") if part.strip())

    book = f"{XHTML_HEAD}<body>{lines(before)}<h1>THE TALE</h1>{lines(after)}</body></html>"
    (document,) = read_epub(one_chapter(book.replace("\ufeff", "")), "b.epub")
    assert isinstance(document, RawDocument)
    assert document.text == "THE TALE"
    assert document.metadata["author"] == "Ada; Bob"  # the package knows better
    assert document.metadata["date"] == "2007-05-08"


def encryption(algorithm: str, uri: str) -> str:
    return f"""<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container"
    xmlns:enc="http://www.w3.org/2001/04/xmlenc#"><enc:EncryptedData>
    <enc:EncryptionMethod Algorithm="{algorithm}"/><enc:CipherData>
    <enc:CipherReference URI="{uri}"/></enc:CipherData></enc:EncryptedData></encryption>"""


@pytest.mark.parametrize(
    ("algorithm", "uri", "is_encrypted"),
    [
        ("http://www.w3.org/2001/04/xmlenc#aes128-cbc", "OEBPS/a.xhtml", True),
        ("http://www.w3.org/2001/04/xmlenc#aes128-cbc", "OEBPS/font.otf", False),
        ("http://www.idpf.org/2008/embedding", "OEBPS/a.xhtml", False),
    ],
)
def test_encrypted_e_books_are_counted(algorithm: str, uri: str, is_encrypted: bool) -> None:
    stream = one_chapter(f"{XHTML_HEAD}<body><p>One</p></body></html>")
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("META-INF/encryption.xml", encryption(algorithm, uri))
    stream.seek(0)
    (found,) = read_epub(stream, "b.epub")
    assert (found == Skipped("encrypted e-book")) is is_encrypted


def test_missing_and_outside_chapters_are_counted() -> None:
    hrefs = ("a.xhtml", "gone.xhtml", "../../etc/passwd.xhtml", "/etc/b.xhtml", "http://x/c.xhtml")
    items = "".join(f'<item id="i{n}" href="{h}" {TYPE}/>' for n, h in enumerate(hrefs))
    spine = "".join(f'<itemref idref="i{n}"/>' for n in range(len(hrefs))) + '<itemref idref="x"/>'
    opf = package(items, spine)
    stream = epub({"OEBPS/book.opf": opf, "OEBPS/a.xhtml": f"{XHTML_HEAD}<body>One</body></html>"})
    *skipped, document = read_epub(stream, "b.epub")
    assert skipped == [
        Skipped("e-book chapter outside the e-book", 3),
        Skipped("missing e-book chapter"),
    ]
    assert isinstance(document, RawDocument)
    assert document.text == "One"


def test_what_is_no_e_book_is_refused() -> None:
    whole = one_chapter("<p>One</p>").getvalue()
    for data in (b"", b"PK\3\4 no zip", whole[: len(whole) // 2], whole[len(whole) // 2 :]):
        with pytest.raises(BrokenInput):
            list(read_epub(io.BytesIO(data), "b.epub"))
    with pytest.raises(BrokenInput, match=r"container\.xml"):
        list(read_epub(epub({"a.xhtml": "<p>One</p>"}, container=None), "b.epub"))
    with pytest.raises(BrokenInput, match="no readable package document"):
        list(read_epub(epub({"OEBPS/book.opf": ""}), "b.epub"))


def test_one_package_needs_no_container() -> None:
    items = f'<item id="a" href="a.xhtml" {TYPE}/>'
    members = {"book.opf": package(items, '<itemref idref="a"/>'), "a.xhtml": "<p>One</p>"}
    (document,) = read_epub(epub(members, container=None), "b.epub")
    assert isinstance(document, RawDocument)
    assert document.text == "One"


def test_damaged_chapter_is_left_out() -> None:
    chapter = "".join(f"<p>{n * n}</p>" for n in range(1000))
    items = f'<item id="a" href="a.xhtml" {TYPE}/><item id="b" href="b.xhtml" {TYPE}/>'
    opf = package(items, '<itemref idref="a"/><itemref idref="b"/>')
    data = bytearray(
        epub(
            {"OEBPS/book.opf": opf, "OEBPS/a.xhtml": chapter, "OEBPS/b.xhtml": "<p>One</p>"}
        ).getvalue()
    )
    begin = data.index(b"OEBPS/a.xhtml") + 200
    data[begin : begin + 50] = bytes(50)
    found = list(read_epub(io.BytesIO(data), "b.epub"))
    assert found[0] == Skipped("unreadable e-book chapter")
    assert isinstance(found[1], RawDocument)
    assert found[1].text == "One"


def test_bombs_do_not_go_off() -> None:
    assert list(read_epub(one_chapter(b" " * (CHAPTER_BYTES + 1)), "b.epub")) == [
        Skipped("e-book chapter over 16 MiB"),
        Skipped("e-book without text"),
    ]
    assert list(read_epub(one_chapter(b"<p>" * 1_000_001), "b.epub")) == [
        Skipped("unreadable e-book chapter"),
        Skipped("e-book without text"),
    ]
    levels = "".join(f'<!ENTITY l{n} "{"".join([f"&l{n - 1};"] * 10)}">' for n in range(1, 12))
    bomb = (
        f'<!DOCTYPE html [<!ENTITY l0 "ha"> {levels} <!ENTITY file SYSTEM "file:///etc/passwd">]>'
        "<html><body><p>One &l11; &file; two</p></body></html>"
    )
    text = text_of(bomb)
    assert text.startswith("One")
    assert "root:" not in text
    assert len(text) < 100
    deep = "<div>" * 100_000 + "in" + "</div>" * 100_000
    list(read_epub(one_chapter(deep), "b.epub"))
    assert "One" in text_of("<p>One\0</p>")


def test_list_of_members_has_a_limit() -> None:
    end = b"PK\5\6" + bytes(4) + b"\xff\xff" * 2 + b"\xff\xff\xff\x7f" + bytes(6)
    with pytest.raises(BrokenInput, match="too many members"):
        list(read_epub(io.BytesIO(b"PK\3\4" + end), "b.epub"))
