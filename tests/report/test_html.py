"""The page of `llmstages report`: what it says of real runs, and that nothing in it is markup."""

import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from llmstages.config.uses import PageConfig
from llmstages.data.corpus import Counts, Manifest, SourceManifest
from llmstages.model.counts import flops_per_token
from llmstages.model.transformer import TransformerConfig
from llmstages.report.html.charts import BAR_LEFT, Line, line_chart, spread, ticks
from llmstages.report.html.contents import page_of, story
from llmstages.report.html.corpus_part import corpus_section
from llmstages.report.html.records import read_corpus, read_records, read_run
from llmstages.report.html.render import render
from llmstages.report.plain import visible
from llmstages.stages import report
from llmstages.text.tokenizer import Tokenizer

PHONE = {"width": 360, "height": 640}
MARKUP = "</svg></style></script><script>stolen=1</script><img src=x onerror='stolen=1'>"
HOSTILE = MARKUP + "&lt;\"'{{7*7}}{% x %}\x1b[31m\0\u202eאבג\ud800"
NAME = "<img src=x onerror=stolen=1>&amp;\"'\u202e אבג"
"""The same of what is part of a file's name."""


def tree_of(html):
    """The page as HTML5 has it; lexbor, which browsers agree with."""
    parser = pytest.importorskip("selectolax.lexbor")
    return parser.LexborHTMLParser(html)


def texts(tree, selector):
    return [" ".join(node.text().split()) for node in tree.css(selector)]


def table(tree, heading):
    """Rows of the first table of a section, as cells."""
    (section,) = (s for s in tree.css("section") if s.css_first("h2").text() == heading)
    rows = section.css_first("table").css("tr")
    return [[cell.text().strip() for cell in row.css("th, td")] for row in rows]


def test_the_steps_the_comparison_and_the_lineage(cli, tiny_corpus, classifier_run, instruct_run):
    status, out, err = cli("report", classifier_run, instruct_run, "output=all.html")
    assert (status, out) == (0, ""), err
    assert "all.html: 3 runs" in err
    tree = tree_of(Path("all.html").read_text("utf-8"))
    assert texts(tree, ".steps h3") == [
        "Collect",
        "Pre-train",
        "Fine-tune: instruction tuning",
        "Fine-tune: classification",
    ]
    manifest = Manifest.read(tiny_corpus / "manifest.json")
    boxes = texts(tree, ".steps li")
    assert f"documents{manifest.train.documents:,}" in boxes[0]
    summaries = [
        json.loads((run / "summary.json").read_text("utf-8"))
        for run in (classifier_run, instruct_run)
    ]
    metrics = summaries[0]["metrics"]
    low, high = metrics["intervals"]["macro_f1"]
    assert f"macro F1{metrics['macro_f1']:.4g} ({low:.4g} to {high:.4g})" in boxes[3]

    head, *rows = table(tree, "Pre-training and fine-tuning")
    assert head[1:] == [
        "Pre-training: pretrain",
        "Fine-tuning: pairs-instruct",
        "Fine-tuning: lines-classify",
    ]
    assert [row[0] for row in rows] == ["objective", "data", "volume", "cost", "outcome"]
    assert rows[2][3].startswith(f"examples: {summaries[0]['examples']['train']} train")

    lineage = table(tree, "Lineage")
    parents = {row[0]: row[lineage[0].index("made from")] for row in lineage[1:]}
    assert parents.pop("pretrain") == ""
    assert all(parent.startswith("pretrain (") for parent in parents.values())
    assert len(parents) == 2
    (section,) = (s for s in tree.css("section") if s.css_first("h2").text() == "Lineage")
    ways = [texts(way, "th, td") for way in section.css("table")[1:]]
    assert texts(section, "h3") == ["The way to pairs-instruct", "The way to lines-classify"]
    made_from = "; ".join(
        f"{source.name} ({source.license or 'licence not recorded'})" for source in manifest.sources
    )
    for way, summary in zip(ways, reversed(summaries), strict=True):
        for told in (str(tiny_corpus), made_from, summary["command"]):
            assert any(told in cell for cell in way), told
        assert [cell for cell in way if cell in ("collect", "pretrain")] == ["collect", "pretrain"]
        # One figure of FLOPs, where runs stand side by side and on the way to each.
        (flops,) = (part for part in way[-1].split(", ") if "FLOPs" in part)
        assert sum(flops in cell for cell in rows[3]) == 1
        assert flops.startswith(f"{flops_of(summary):.3g} FLOPs")

    # Every chart has a title, a description and its numbers; every row of the runs leads to one.
    charts = tree.css("svg.chart")
    assert len(charts) >= 15
    for chart in charts:
        assert chart.css_first("title").text()
        assert chart.css_first("desc").text()
    assert len(tree.css("figure table")) == len(charts)
    assert len(tree.css("#run-3 rect.first[fill-opacity]")) == sum(
        count > 0 for row in metrics["confusion"] for count in row
    )
    for link in tree.css("td a, th a"):
        assert tree.css_first(f"details{link.attributes['href']}") is not None
    answers = (instruct_run / "answers.jsonl").read_text("utf-8").splitlines()
    assert json.loads(answers[0])["question"] in texts(tree, ".answer dd")


def test_the_steps_tell_one_chain(tmp_path):
    """Of many runs the base of which most was made, its corpus, and what was last made of it."""

    def made(name, stage, hour, parent=None, status="finished"):
        run = tmp_path / name
        (run / "best").mkdir(parents=True)
        lineage = {"parent": parent and f"weights of {parent}"}
        info = {"files": {"model.safetensors": f"weights of {name}"}, "lineage": lineage, "step": 1}
        date = f"2026-01-01T{hour:02}:00:00+00:00"
        for path, record in (
            ("plan.json", {"stage": stage}),
            ("summary.json", {"stage": stage, "status": status, "date": date}),
            ("config.yaml", {}),
            ("best/llmstages.json", info),
        ):
            (run / path).write_text(json.dumps(record), encoding="utf-8")

    made("a-further", "pretrain", 9, "base")
    made("a-made-of-it", "finetune-instruct", 10, "a-further")
    made("alone", "pretrain", 11)
    made("base", "pretrain", 1)
    made("classify-old", "finetune-classify", 3, "base")
    made("classify-new", "finetune-classify", 4, "base")
    made("classify-newer", "finetune-classify", 5, "base", "stopped")
    made("instruct", "finetune-instruct", 2, "base")
    made("instruct-liked", "finetune-instruct", 6, "instruct")
    base, tuned, corpus = story(read_records([tmp_path]))
    assert (base.name, corpus) == ("base", None)
    assert [run.name for run in tuned] == ["instruct-liked", "classify-new"]
    made("b-of-further", "finetune-classify", 12, "a-further")
    base, tuned, _ = story(read_records([tmp_path]))  # of as many stages the newest
    assert [run.name for run in (base, *tuned)] == ["a-further", "a-made-of-it", "b-of-further"]


def test_a_corpus_has_the_tokens_of_its_own_tokenizer(tmp_path, tiny_corpus, tiny_run):
    """And a run that read it with another one those of that."""
    corpus = shutil.copytree(tiny_corpus, tmp_path / "corpus")
    run = shutil.copytree(tiny_run, tmp_path / "run")
    (index,) = (json.loads(path.read_text("utf-8")) for path in corpus.glob("tokens/*/index.json"))
    own = {
        shard["source"]: shard["tokens"] for shard in index["shards"] if shard["split"] == "train"
    }
    index["tokenizer_hash"] = "of another"
    for shard in index["shards"]:
        shard["tokens"] *= 3
    (corpus / "tokens" / "ff").mkdir()
    (corpus / "tokens" / "ff" / "index.json").write_text(json.dumps(index), encoding="utf-8")
    path = (run / "best").resolve() / "llmstages.json"
    info = json.loads(path.read_text("utf-8"))
    info["lineage"]["tokenizer"] = "of another"
    path.write_text(json.dumps(info), encoding="utf-8")
    record = replace(read_run(run, "run"), shape={"vocab_size": 9})
    found = read_corpus(corpus, [record])
    assert found.tokens == own
    assert found.vocabulary == Tokenizer.load(corpus / "tokenizer").vocab_size
    assert found.tokens_for(record) == {source: 3 * tokens for source, tokens in own.items()}


def test_documents_that_are_cut_add_to_those_read(tiny_corpus):
    found = read_corpus(tiny_corpus, [])
    (source, *_) = found.manifest.sources
    of_24 = replace(
        source, extracted=Counts(24, 90, 900), dropped={}, train=Counts(24, 80, 800),
        validation=Counts(24, 10, 100),
    )  # fmt: skip
    section = corpus_section(
        replace(found, manifest=replace(found.manifest, sources=[of_24])), "a", None
    )
    told = "24 documents read, 24 more by cutting some into parts; 24 to train on, 24 to validate"
    assert section.line == told
    bars = {bar.name: bar for bar in section.charts[0].bars}
    ((begin, width, look),) = bars["+ cut into parts"].parts
    ((_, read, _),) = bars["read"].parts
    assert (round(begin - BAR_LEFT), round(width), look) == (round(read), round(read), "other")


def flops_of(summary):
    entries = {key: value for key, value in summary["model_shape"].items() if key != "parameters"}
    shape = TransformerConfig(**entries)
    return summary["tokens"] * flops_per_token(shape, shape.context_length)


def test_a_damaged_summary_or_a_run_that_goes_on_ends_no_page(cli, run_copy):
    path = run_copy / "summary.json"
    summary = json.loads(path.read_text("utf-8"))
    wrong = [
        {"date": 20261129, "tokens": float("inf"), "machine": 3, "mfu": "high"},
        {"command": ["pretrain"], "tokens": 10**400, "seconds": 10**400, "metrics": [1]},
        {"date": None, "model_shape": {**summary["model_shape"], "num_layers": 10**12}},
    ]
    (run_copy / "best").unlink()  # as of a run that was never evaluated
    for values in wrong:
        path.write_text(json.dumps({**summary, **values}), encoding="utf-8")
        status, _, err = cli("report", run_copy, "output=page.html")
        assert status == 0, err
    path.unlink()
    assert cli("report", run_copy, "output=page.html")[0] == 0
    tree = tree_of(Path("page.html").read_text("utf-8"))
    (section,) = (s for s in tree.css("section") if s.css_first("h2").text() == "Lineage")
    way = texts(section.css("table")[-1], "tbody th, tbody td")
    assert {"collect", "pretrain"} <= set(way)


def test_abilities_stand_beside_chance(run_copy):
    metrics = run_copy / "metrics.jsonl"
    entries = [json.loads(line) for line in metrics.read_text("utf-8").splitlines()]
    for entry in entries:
        if entry.get("event") == "evaluation":
            entry |= {"val_acc/copa": 0.6, "val_acc_chance/copa": 0.5}
    metrics.write_text("".join(json.dumps(entry) + "\n" for entry in entries), "utf-8")
    page = tree_of(render(page_of(read_records([run_copy]))))
    (chart,) = (svg for svg in page.css("svg.chart") if "copa" in svg.text())
    assert "chance" in chart.text().split()
    assert "questions answered right" in chart.css_first("title").text()


def test_without_words_all_runs_are_shown_and_a_wrong_word_is_named(cli, run_copy):
    killed = run_copy.parent / "sweep" / "0"
    killed.mkdir(parents=True)
    for name in ("plan.json", "metrics.jsonl"):
        (killed / name).write_bytes((run_copy / name).read_bytes()[:-20])
    spread = {"mean": 0.75, "standard_deviation": 0.5, "interval": [0.25, 1.25]}
    members = {"members": ["0", "1"], "spread": {"macro_f1": spread, "accuracy": "?"}}
    (killed.parent / "summary.json").write_text(json.dumps(members), encoding="utf-8")
    assert cli("report")[0] == 0
    page = Path("report.html").read_text("utf-8")
    head, *rows = table(tree_of(page), "Runs")
    assert [row[0] for row in rows] == ["pretrain", "sweep/0"]
    assert rows[1][head.index("status")] == "not finished"
    several = table(tree_of(page), "Several trainings of one setting")
    assert several[1:] == [["sweep", "2", "macro F1", "0.75", "0.5", "0.25 to 1.25"]]
    Path("nothing").mkdir()
    for word, said in (("nothing", "neither a run"), ("gone", "no such directory")):
        status, _, err = cli("report", word)
        assert (status, err.count("\n")) == (2, 1)
        assert f"{word}: " in err
        assert said in err
    assert cli("report", "output=nothing")[0] == 2
    assert Path("report.html").read_text("utf-8") == page
    assert not list(Path().glob("*.tmp"))


# --- nothing is markup


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory):
    """A page of a corpus and two runs in which every text is hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    corpus, base, run = (folder / name for name in ("corpus " + NAME, "base " + NAME, NAME))
    for directory in (corpus, base, run, run / "best"):
        directory.mkdir()
    counts = Counts(10, 100, 1000)
    sources = [
        SourceManifest(
            name, HOSTILE, HOSTILE, None, 0, None, None, [], {HOSTILE: 1}, counts + counts,
            {HOSTILE: Counts(5, 50, 500)}, Counts(), counts, Counts(5, 50, 500), HOSTILE,
        )
        for name in ("a", NAME)
    ]  # fmt: skip
    manifest = asdict(Manifest(2, HOSTILE, sources, {}, {}))
    scores = {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
    labels = [HOSTILE, "ordinary"]
    metrics = {
        HOSTILE: 1.0,
        "macro_f1": 0.5,
        "labels": labels,
        "per_class": [{"label": label, **scores} for label in labels],
        "confusion": [[1, 1], [0, 2]],
        "reliability": [
            {"above": 0, "up_to": 1, "num_examples": 4, "confidence": 0.9, "accuracy": 0.75}
        ],
    }
    told = {"machine": {"device": HOSTILE}, "headline": HOSTILE, "examples": {HOSTILE: 3}}
    shape = {"parameters": 7, "num_layers": 1, "hidden_size": 2}
    entries = [{"step": n, "loss": 3 / n, "lr": 0.1, "tokens": n} for n in range(1, 4)]
    entries += [
        {"step": 3, "event": "evaluation", f"val_x/{HOSTILE}": 1.0, f"val_x/{NAME}": 2.0},
        {"step": 3, "event": "evaluation", f"val_{HOSTILE}": 1.0},
    ]
    lineage = dict.fromkeys(("parent", "corpus_manifest", "tokenizer", "data"), HOSTILE)
    row = {"text": HOSTILE, "label": HOSTILE, "predicted": "ordinary", "probabilities": {}}
    answer = dict.fromkeys(("question", "reference", "before", "after"), HOSTILE)
    files = {
        corpus / "manifest.json": manifest,
        base / "plan.json": {"stage": "pretrain"},
        base / "metrics.jsonl": entries,
        base / "config.yaml": {"data": str(corpus)},
        run / "plan.json": {"stage": "finetune-classify"},
        run / "summary.json": {"metrics": metrics, "model_shape": shape, **told},
        run / "metrics.jsonl": entries,
        run / "config.yaml": {"base": str(base), "data": NAME, "method": {"name": NAME}},
        run / "predictions.jsonl": [row],
        run / "answers.jsonl": [answer],
        run / "best" / "llmstages.json": {"step": 3, "lineage": lineage},
    }
    for path, record in files.items():
        lines = record if isinstance(record, list) else [record]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    page = folder / "page.html"
    report.run(PageConfig(runs=[str(run)], output=str(page)))
    return page


def test_no_text_is_markup(hostile_page):
    html = hostile_page.read_text("utf-8")
    tree = tree_of(html)
    assert len(tree.css("script")) == len(tree.css("style")) == 1
    assert not tree.css("img, iframe, object, embed, link, form, base, foreignObject")
    for node in tree.css("*"):
        for name, value in node.attributes.items():
            assert not name.startswith("on"), name
            assert name not in ("href", "src") or (value or "").startswith("#"), value
    assert html == visible(html)

    # It is shown all the same: as it is, but for control characters.
    shown = visible(HOSTILE)
    for place in (".answer dd", "td.text", "th", "dd"):
        assert " ".join(shown.split()) in texts(tree, place), place
    assert any(shown in (g.attributes["data-tip"] or "") for g in tree.css("g[data-tip]"))
    assert visible(NAME) in texts(tree, "summary")


def test_nothing_is_loaded_and_only_the_pages_own_script_runs(hostile_page):
    html = hostile_page.read_text("utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)[1]
    assert policy.startswith("default-src &#39;none&#39;; style-src &#39;sha256-")
    assert "unsafe" not in policy
    assert not re.search(
        r"""(src|href)=["'](?!#)|url\(|@import|https?://""", html.replace(MARKUP, "")
    )


def test_on_a_phone_in_a_browser(browser, hostile_page):
    page = browser.new_page(viewport=PHONE, color_scheme="dark")
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url))
    page.goto(hostile_page.as_uri())
    assert said == [hostile_page.as_uri()]
    assert page.evaluate("typeof stolen") == "undefined"
    assert page.evaluate("document.scrollingElement.scrollWidth") <= PHONE["width"]
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, re.findall(r"\d+", colour))) < 150

    # What is under the pointer: of curves the nearest point, of a matrix the cell.
    curve = page.locator("svg:has(polyline.first)").first
    curve.hover(position={"x": 60, "y": 80})
    assert page.locator("#tip div").all_inner_texts() == ["at 1", "training: 3"]
    page.locator("g[data-tip]:has(rect[fill-opacity])").first.hover()
    assert page.text_content("#tip") == f"{visible(HOSTILE)} → {visible(HOSTILE)}: 1 of 2 (50.0%)"
    assert len(page.pdf(format="A4")) > 10_000
    page.close()


def test_on_paper_labels_wrap_and_no_heading_stands_alone(browser, tmp_path):
    pdfium = pytest.importorskip("pypdfium2")
    word = "w" * 200
    row = {"text": "a text", "label": word, "predicted": word + "x", "probabilities": {}}
    for number in range(12):
        run = tmp_path / f"run-{number}"
        run.mkdir()
        plan = {"stage": "finetune-classify", "steps": 9}
        (run / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
        many = {f"figure {index}": 1.0 for index in range(4 + 2 * number)}
        summary = {"status": "finished", "metrics": many, "examples": many}
        (run / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
        (run / "predictions.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    path = tmp_path / "page.html"
    path.write_text(render(page_of(read_records([tmp_path]))), encoding="utf-8")
    page = browser.new_page(viewport={"width": 800, "height": 640})
    page.goto(path.as_uri())
    inside = "[...document.querySelectorAll('.scroll')].every(e => e.scrollWidth <= e.clientWidth)"
    assert page.evaluate(inside)
    pdf = pdfium.PdfDocument(page.pdf(format="A4"))
    page.close()
    ends = [sheet.get_textpage().get_text_range().split("\r\n")[-1] for sheet in pdf]
    pdf.close()
    assert len(ends) > 5
    headings = ("run-", "Figures", "The most confident mistakes")
    assert not [line for line in ends if line.startswith(headings)]


# --- charts


def test_ticks_and_names_of_lines():
    assert ticks(0.13, 0.98) == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert spread([50, 10, 12, 11], 0, 100) == [50, 10, 34, 22]
    assert spread([99, 100, 98], 0, 100) == [88, 100, 76]
    assert line_chart("t", "d", [], "x") is None


def test_a_curve_lies_where_its_numbers_say():
    import numpy as np

    line = Line("loss", np.array([0.0, 10.0]), np.array([4.0, 99.0]), "first")
    chart = line_chart("t", "d", [line], "step", y_range=(2.0, 6.0))
    (drawn,) = chart.lines
    # What is above the range is drawn at its edge, and told as it is.
    assert drawn.points == [(chart.left, (chart.top + chart.bottom) / 2), (chart.right, chart.top)]
    assert drawn.values == [[0.0, 4.0], [10.0, 99.0]]
    assert chart.table.rows == [(0, 4.0), (10, 99.0)]
    assert chart.description == "d What lies above 6 is drawn at the upper edge."


def test_the_throughput_is_drawn_whole(tmp_path):
    """However much faster some steps are than most."""
    speeds = [1000] * 60 + [5569] * 20
    entries = [
        {"step": n, "loss": 2.0, "tokens_per_second": speed} for n, speed in enumerate(speeds, 1)
    ]
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    (tmp_path / "metrics.jsonl").write_text(lines, encoding="utf-8")
    (section,) = page_of(read_records([tmp_path])).sections
    (chart,) = (chart for chart in section.charts if chart.title.startswith("Throughput"))
    assert all(y > chart.top for line in chart.lines for _, y in line.points)
    assert "edge" not in chart.description
