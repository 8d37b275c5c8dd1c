"""The main text of web pages: what is kept, how it reads, encodings, and pages meant to harm."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmstages.collect.pages import bounds as page_bounds
from llmstages.collect.pages.bounds import bounded
from llmstages.collect.pages.extraction import Page, extract_page, visible_text

ROOT = Path(__file__).parents[2]
MENU = "<ul>" + "".join(f"<li><a href='/{i}'>Section {i}</a></li>" for i in range(30)) + "</ul>"
SENTENCE = "Sentence {} of the story goes on and on for a while, and then it comes to an end."
STORY = "".join(f"<p>{SENTENCE.format(i)}</p>" for i in range(9))


def text_of(body: str) -> str:
    return extract_page(f"<html><body>{body}</body></html>".encode()).text


# --- how it reads


def test_every_kind_of_block_reads_as_a_browser_shows_it() -> None:
    body = """
    <h1>A  heading</h1><p>One <b>bo</b>ld<br>line</p><p>H<sub>2</sub>O<br><br>after</p>
    <ul><li>a<ul><li>b</li></ul><li><p>c</p><p>still c</p></ul><ol><li>x<li>y</ol>
    <table><tr><th>Name<th>Age</tr><tr><td>Ann<td>7</tr><tr><td> <td></tr></table>
    <dl><dt>term<dd>meaning</dl>
    <pre>def f():
    return 1


x = 2</pre>
    <p>E = <math alttext="mc^2"><mi>m</mi></math>.</p><blockquote>quoted</blockquote>
    """
    assert text_of(body) == (
        "A heading\n\nOne bold\nline\n\nH2O\n\nafter\n\n"
        "- a\n  - b\n- c\n\nstill c\n\n1. x\n2. y\nName | Age\nAnn | 7\nterm\nmeaning\n\n"
        "def f():\n    return 1\n\n\nx = 2\n\nE = mc^2.\n\nquoted"
    )


def test_code_with_a_line_an_element_keeps_its_lines() -> None:
    body = "<pre><div>def f():</div><div>    <span>return</span> 1</div>\n<div>end</div></pre>"
    assert text_of(body) == "def f():\n    return 1\nend"


def test_columns_of_a_page_are_not_cells_of_a_table() -> None:
    body = f"<table><tr><td>{MENU}</td><td>One.<br>Two.<br><br>Three.</td></tr></table>"
    assert text_of(body).endswith("Section 29\n\nOne.\nTwo.\n\nThree.")


def test_what_is_not_shown_is_not_text() -> None:
    body = (
        "<p>seen<span hidden>A</span><span aria-hidden='true'>B</span>"
        "<a class='headerlink' href='#x'>¶</a><span style='display: none'>C</span></p>"
        "<script>D</script><style>E</style><!-- F --><template>G</template>"
        "<svg><text>H</text></svg>"
        "<button>I</button><select><option>J</select><textarea>K</textarea>"
    )
    assert text_of(body) == "seen"


def test_hidden_blocks_are_left_out_of_articles() -> None:
    ghost = f"<div style='display:none'>{STORY.replace('Sentence', 'Ghost')}</div>"
    text = text_of(f"<div>{STORY}</div>{ghost}")
    assert "Sentence 8" in text
    assert "Ghost" not in text
    # But a page that shows itself by script only is not empty.
    assert "Sentence 8" in text_of(f"<div id='app' style='visibility: hidden'>{STORY}</div>")


def test_the_title() -> None:
    page = "<head><title> A \n title </title></head><svg><title>icon</title></svg><p>x"
    assert extract_page(page.encode()) == Page("x", "A title", "utf-8")
    assert extract_page(b"<svg><title>icon</title></svg><p>x").title is None
    assert extract_page(b"") == Page("", None, "utf-8")


# --- what is kept

ARTICLE = f"<article><h1>Headline</h1>{STORY}</article>"


@pytest.mark.parametrize(
    "beside",
    [
        f"<nav>{MENU}</nav>",
        f"<div>{MENU}</div>",
        f"<div class='sidebar'><p>{'Something else is told here at length. ' * 5}</p></div>",
        f"<div id='comments'><p>{'I do not agree with this at all, not a bit. ' * 5}</p></div>",
        f"<footer><p>{'All rights are reserved, and cookies are used. ' * 4}</p></footer>",
        "<ul>"
        + "".join(f"<li><p>{'Teaser of another story. ' * 4}</p></li>" for _ in range(20))
        + "</ul>",
    ],
    ids=["nav", "menu", "sidebar", "comments", "footer", "teasers"],
)
def test_an_article_leaves_out_what_stands_beside_it(beside: str) -> None:
    expected = "\n\n".join(["Headline", *(SENTENCE.format(i) for i in range(9))])
    assert text_of(f"{beside}<div>{ARTICLE}</div>") == expected
    assert text_of(f"<div>{ARTICLE}</div>{beside}") == expected


def test_boxes_of_links_within_an_article_are_left_out() -> None:
    more = "<p><a href='/x'>Read this other story of ours about something else</a></p>"
    text = text_of(
        f"<article>{STORY}{more}{MENU}<h2><a href='#a'>Part two</a></h2>{STORY}</article>"
    )
    assert "other story" not in text
    assert "Section 3" not in text
    assert "Part two" in text


def test_names_that_say_the_wrong_thing_are_not_believed() -> None:
    for name in ("with-sidebar", "social-post", "print ads", "hidden-comments"):
        assert "Sentence 8" in text_of(f"<nav>{MENU}</nav><div class='{name}'>{STORY}</div>")


def test_pages_without_an_article_are_not_empty() -> None:
    assert text_of("<p>five</p><p>six</p>") == "five\n\nsix"
    assert text_of("<div class='footer'>all there is</div>") == "all there is"
    contents = text_of(f"<h1>Contents</h1><div class='toc'>{MENU}</div>")
    assert contents.startswith("Contents\n\n- Section 0\n- Section 1\n")
    # A short notice is enough where the rest is navigation.
    assert text_of(f"<nav>{MENU}</nav><p>{'Gone for good. ' * 6}</p>") == "Gone for good. " * 5 + (
        "Gone for good."
    )


def test_documentation_keeps_its_code_and_lists() -> None:
    page = (
        f"<div class='sphinxsidebar'>{MENU}</div><div class='body' role='main'><section>"
        f"<h1>json<a class='headerlink'>¶</a></h1><p>{SENTENCE.format(1)}</p>"
        f"<div class='highlight'><pre>&gt;&gt;&gt; import json\n</pre></div>"
        f"<p>{SENTENCE.format(2)}</p><dl><dt>dump(obj)</dt><dd><p>Write.</p></dd></dl>"
        "<ul><li><p>fast</p></li></ul></section></div>"
    )
    assert text_of(page) == (
        f"json\n\n{SENTENCE.format(1)}\n\n>>> import json\n\n{SENTENCE.format(2)}\n\n"
        "dump(obj)\n\nWrite.\n\n- fast"
    )


# --- encodings

CYRILLIC = "Съешь же ещё этих мягких французских булок, да выпей чаю. " * 3
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。" * 3


@pytest.mark.parametrize(
    ("head", "text", "written", "charset", "read"),
    [
        ("", "naïve “q”", "utf-8-sig", "windows-1251", "utf-8"),  # a mark beats the server
        ("", CYRILLIC, "utf-16", "utf-8", "utf-16-le"),
        ("<meta charset=koi8-r>", CYRILLIC, "cp1251", "windows-1251", "cp1251"),  # server first
        ("<meta charset='windows-1251'>", CYRILLIC, "cp1251", None, "cp1251"),
        (
            "<meta http-equiv=x content='text/html; charset=x-sjis'>",
            JAPANESE,
            "cp932",
            None,
            "cp932",
        ),
        (
            "<!-- <meta charset=koi8-r> --><meta charset=big5>",
            "中文" * 9,
            "big5",
            None,
            "big5hkscs",
        ),
        ("<meta charset=gb2312>", "汉字囧" * 9, "gb18030", None, "gb18030"),
        ("<meta charset=iso-8859-1>", "“quoted” – €", "cp1252", None, "cp1252"),
        ("<meta charset=iso-8859-2>", "Łódź", "iso-8859-2", None, "iso8859-2"),
        ("<meta charset=utf-16>", "naïve", "utf-8", None, "utf-8"),  # it cannot be true
        ("<meta charset=nonsense>", CYRILLIC, "utf-8", "no-such-thing", "utf-8"),
        ("", "naïve café", "utf-8", "iso-8859-1", "utf-8"),  # a server's default
        ("<meta charset=utf-8>", CYRILLIC, "cp1251", None, "cp1251"),  # bytes do not fit
        ("", "plain", "utf-8", "utf-16", "utf-8"),
    ],
)
def test_encodings(head: str, text: str, written: str, charset: str | None, read: str) -> None:
    page = extract_page(f"<html><head>{head}</head><p>{text}</p>".encode(written), charset)
    assert (page.text, page.encoding) == (text.strip(), read)


def test_a_few_broken_bytes_do_not_change_the_encoding() -> None:
    data = f"<meta charset=shift_jis><p>{JAPANESE * 30}</p>".encode("cp932")
    data = data[:200] + b"\xff" + data[200:]
    page = extract_page(data)
    assert page.encoding == "cp932"
    assert page.text.count("\ufffd") == 1


# --- pages meant to harm

HOSTILE = {
    "deep": "'<div>' * 100_000 + 'the end'",
    "deep and closed": "'<div>' * 100_000 + 'the end' + '</div>' * 100_000",
    "deep lists": "'<ul><li>' * 50_000 + 'the end'",
    "deep unknown elements": "'<x-y/>' * 100_000 + 'the end'",
    "no end tags": "'<p>x' * 100_000 + '<p>the end'",
    "formatting never closed": "''.join(f'<p><b id={i}>x' for i in range(3900)) + 'the end'",
    "one tag": "'<div ' + 'a=1 ' * 12_500_000 + '>the end'",
    "many attributes": "'<div ' + ' '.join(f'a{i}' for i in range(300_000)) + '>the end'",
    "quoted attributes": "'<p ' + ' '.join(f'a{i}=\">\"' for i in range(99_000)) + '>the end'",
    "long addresses": "'<img src=data:image/png;base64,' + 'A' * 8_000_000 + '>the end'",
    "broken entities": "'&#x;&amp&foo;&#999999999;&' * 10_000 + 'the end'",
    "quotes never closed": "'<a href=\"' + '<a b=\\'' * 100_000 + '\">the end'",
    "comments never closed": "'the end' + '<!--' * 500_000",
    "open angles": "'<' * 1_000_000 + '<p>the end'",
    "zeros": "'\\0' * 10_000 + '<p>the\\0 end'",
    "white space": "'<pre>' + '\\n ' * 500_000 + 'the end</pre>'",
}


def test_hostile_pages_neither_hang_nor_crash(tmp_path: Path) -> None:
    """In a process of its own, which a stack overflow would end."""
    script = tmp_path / "hostile.py"
    script.write_text(
        "import json, time\n"
        "from llmstages.collect.pages.extraction import extract_page\n"
        "results = {}\n"
        + "".join(
            f"page = ({expression}).encode()\n"
            "began = time.process_time()\n"
            f"found = 'the end' in extract_page(page, 'utf-8').text\n"
            f"results[{name!r}] = (found, time.process_time() - began)\n"
            for name, expression in HOSTILE.items()
        )
        + "print(json.dumps(results))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(done.stdout)
    # 50 MB of one tag are cut before the tag ends, and nothing ever ends in an open quote.
    lost = {"one tag", "quotes never closed"}
    assert {name for name, (found, _) in results.items() if not found} <= lost
    assert max(seconds for _, seconds in results.values()) < 10.0


def test_a_page_ends_at_the_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmstages.collect.pages.extraction.MAX_PAGE_BYTES", 1000)
    text = extract_page(b"<p>" + b"word " * 190 + b" <p>beyond" * 100).text
    assert text.startswith("word word")
    assert len(text) < 1000


def test_a_page_ends_at_the_most_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_bounds, "MAX_TAGS", 9000)
    assert visible_text("<p>x" * 10_000).count("x") == 9000


def test_bounds_keep_text_and_leave_ordinary_pages_alone() -> None:
    page = f"<div class='a'>{STORY}<img src='data:{'A' * 5000}'></div>"
    assert bounded(page) == page
    deep = bounded("<section>" * 9000 + "<p>inside</p>" + "</section>" * 9000 + "<p>after</p>")
    assert deep.count("<section>") == deep.count("</section>") == page_bounds.MAX_DEPTH
    assert "<p>inside</p>" in deep
    assert deep.endswith("<p>after</p>")
    assert bounded("<p>a <b class='>'>b</b><I>c</I><br><body><strike/>d") == "<p>a bc<br><body>d"


def test_scripts_of_long_pages_do_not_swallow_the_text() -> None:
    script = "<script>if (a<b && c) { document.write('<div>') } // <!-- </script>"
    assert visible_text(script * 4000 + "<p>seen</p>" * 4000).count("seen") == 4000


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                *("<p>", "</p>", "<table>", "<tr>", "<td>", "</td>", "</table>", "<li>", "<ul>"),
                *(
                    "</ul>",
                    "<pre>",
                    "</pre>",
                    "<a href=x>",
                    "</a>",
                    "<br>",
                    "<div hidden>",
                    "<math>",
                ),
                *("</div>", "<select>", "<svg>", "<template>", "<!--", "<b>", "<frameset>", " | "),
                *("word ", " \n", "\0", "&#1;", "&", "<", ">", "'", '"', "\x80", "語", "</body>"),
            ]
        ),
        max_size=40,
    )
)
def test_any_page_gives_text(pieces: list[str]) -> None:
    page = "".join(pieces)
    text = extract_page(page.encode(), "utf-8").text
    assert "\0" not in text
    assert text == text.strip("\n")
    assert text.count("word") <= page.count("word")


def test_many_threads_find_the_same() -> None:
    pages = [f"<nav>{MENU}</nav><article>{STORY * i}</article>".encode() for i in range(1, 30)]
    alone = [extract_page(page) for page in pages]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(extract_page, pages)) == alone


# --- the benchmark


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "bench_extraction", ROOT / "scripts" / "bench_extraction.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_scores(bench: ModuleType) -> None:
    # Shingles: abcd bcde cdef against abcd bcde bcdx; then nothing found; then all of it.
    pairs = [("a b c d e f", "a b c d e, x"), ("a b", ""), ("a b", "a b")]
    precision, recall, f1 = bench.scores(pairs)
    assert precision == pytest.approx((2 / 3 + 1) / 2)
    assert recall == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert f1 == pytest.approx(2 * precision * recall / (precision + recall))


def test_the_pages_of_mozilla_readability(bench: ModuleType) -> None:
    data = os.environ.get("LLMSTAGES_DATA")
    if not data:
        pytest.skip("LLMSTAGES_DATA is not set")
    pages = list(bench.labelled_pages(Path(data) / "html_readability"))
    began = time.process_time()
    row = bench.measure("llmstages", bench.extractors()["llmstages"], pages)
    assert row["pages"] == 80
    assert row["f1"] > 0.955
    assert time.process_time() - began < 10
