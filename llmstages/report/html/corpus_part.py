"""What a page shows of one corpus."""

from llmstages.data.corpus import Counts
from llmstages.report.corpus import change_name, changed, sizes, waterfall
from llmstages.report.html.charts import (
    Bar,
    Cell,
    Chart,
    Part,
    Table,
    bar_chart,
    short_number,
)
from llmstages.report.html.records import (
    CorpusRecord,
    RunRecord,
)
from llmstages.report.html.section import Section
from llmstages.report.html.words import counted, duration, known, percent, size_text


def corpus_section(corpus: CorpusRecord, anchor: str, base: RunRecord | None) -> Section:
    manifest = corpus.manifest
    facts = known(
        ("recipe", manifest.recipe),
        ("to train on", _documents(manifest.train)),
        ("held out", _documents(manifest.validation)),
        ("vocabulary", f"{corpus.vocabulary:,} tokens" if corpus.vocabulary else ""),
        ("collected in", duration(corpus.seconds)),
        ("licences", ", ".join(sorted({s.license for s in manifest.sources if s.license}))),
    )
    by_source = [
        Table(
            ("", "documents", "words", "MB"),
            [[_plain(cell) for cell in row] for row in waterfall(source)],
            source.name,
        )
        for source in manifest.sources
    ]
    charts = [_waterfall_chart(corpus), _mixture_chart(corpus, base)]
    found = [chart for chart in charts if chart is not None]
    line = _what_became(corpus)
    return Section(anchor, corpus.directory.name, line, facts, found, by_source)


def _what_became(corpus: CorpusRecord) -> str:
    """Of the documents, in a line."""
    sources = corpus.manifest.sources
    read = sum(source.extracted.documents for source in sources)
    dropped = sum(counts.documents for source in sources for counts in source.dropped.values())
    added = sum(changed(source).documents for source in sources)
    return (
        f"{counted(read, 'document')} read"
        + (f", {dropped:,} dropped" if dropped else "")
        + (f", {added:,} more by cutting some into parts" if added > 0 else "")
        + f"; {corpus.manifest.train.documents:,} to train on, "
        f"{corpus.manifest.validation.documents:,} to validate"
    )


def _documents(counts: Counts) -> str:
    return f"{counts.documents:,} documents, {size_text(counts.bytes)}"


def _plain(value: object) -> Cell:
    return value if isinstance(value, (str, int, float)) or value is None else str(value)


def _waterfall_chart(corpus: CorpusRecord) -> Chart | None:
    """Documents from those read to those kept, over all sources."""
    sources = corpus.manifest.sources
    read = sum((source.extracted for source in sources), Counts())
    dropped: dict[str, Counts] = {}
    for source in sources:
        for rule, counts in source.dropped.items():
            dropped[rule] = dropped.get(rule, Counts()) + counts
    rows: list[list[Cell]] = [["read", *sizes(read), 100.0]]
    bars = [_bar("read", 0, read.documents, "other", read)]
    left = read.documents
    for rule, counts in sorted(dropped.items(), key=lambda drop: -drop[1].documents):
        after = max(left - counts.documents, 0)
        bars.append(_bar(f"− {rule}", after, left, "second", counts))
        rows.append([f"− {rule}", *sizes(counts), percent(counts.documents, read.documents)])
        left = after
    cut = sum((changed(source) for source in sources), Counts())
    if cut.documents:
        low, high = sorted((left, max(left + cut.documents, 0)))
        name, look = ("+ cut into parts", "other") if cut.documents > 0 else ("− cleaned", "second")
        bars.append(_bar(name, low, high, look, cut))
    if cut.documents or cut.words:
        rows.append([change_name(cut), *sizes(cut), percent(cut.documents, read.documents)])
    train, validation = corpus.manifest.train, corpus.manifest.validation
    for name, begin, counts in (("train", 0, train), ("validation", train.documents, validation)):
        bars.append(_bar(name, begin, begin + counts.documents, "first", counts))
        rows.append([name, *sizes(counts), percent(counts.documents, read.documents)])
    return bar_chart(
        "Documents read, dropped by each filter, and kept",
        f"{_what_became(corpus)}.",
        bars,
        Table(("", "documents", "words", "MB", "% of those read"), rows),
    )


def _bar(name: str, begin: float, end: float, look: str, counts: Counts) -> Bar:
    tip = (
        f"{name}: {counts.documents:,} documents, {counts.words:,} words, {size_text(counts.bytes)}"
    )
    number = short_number(abs(counts.documents))  # whether less or more, its name says
    return Bar(name, [Part(begin, end, look)], number, tip)


def _mixture_chart(corpus: CorpusRecord, base: RunRecord | None) -> Chart | None:
    """The share of the training text that is drawn from each source, beside that of its size."""
    manifest = corpus.manifest
    shares = manifest.shares
    asked = {name: base.weights.get(name, 0.0) for name in shares} if base and base.weights else {}
    if (total := sum(asked.values())) > 0:
        shares = {name: weight / total for name, weight in asked.items()}
    size = manifest.train.bytes or 1
    read = base.tokens if base else None
    as_read = corpus.tokens_for(base) if base else {}
    bars, rows = [], []
    for source in manifest.sources:
        share, of_size = shares[source.name], source.train.bytes / size
        tokens = corpus.tokens.get(source.name)
        times = share * read / seen if read and (seen := as_read.get(source.name)) else None
        bars.append(
            Bar(
                source.name,
                [Part(0, share, "first")],
                f"{share:.1%}",
                f"{source.name}: {share:.1%} of what is read, {of_size:.1%} of the text"
                + (f", read {times:.3g} times" if times else ""),
                mark=of_size,
            )
        )
        rows.append([source.name, *sizes(source.train), tokens, 100 * of_size, 100 * share, times])
    columns = ("source", "documents", "words", "MB", "tokens", "% of the text", "% drawn")
    return bar_chart(
        "Mixture: share of the training text drawn from each source",
        "Bars: share drawn. Line across: share of the text by its size.",
        bars,
        Table((*columns, "times read"), rows).without_empty(),
    )
