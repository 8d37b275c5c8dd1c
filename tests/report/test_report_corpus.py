"""The waterfall of a source: what came in, what went by which rule, what is left."""

from llmstages.data.corpus import Counts, SourceManifest
from llmstages.report.corpus import waterfall


def source(train: Counts, dropped: dict[str, Counts]) -> SourceManifest:
    """A source of ten documents, of which two records gave none."""
    return SourceManifest(
        name="web",
        kind="files",
        license=None,
        weight=None,
        priority=0,
        published_tokens=None,
        published_epochs=None,
        inputs=[],
        skipped={"redirect": 2},
        extracted=Counts(10, 1000, 6_000_000),
        dropped=dropped,
        decontaminated=Counts(),
        train=train,
        validation=Counts(1, 100, 600_000),
        documents_sha256="",
    )


def test_rules_with_the_most_documents_come_first() -> None:
    dropped = {"empty": Counts(1, 0, 0), "duplicate": Counts(2, 200, 1_200_000)}
    assert waterfall(source(Counts(6, 700, 4_200_000), dropped)) == [
        ["skipped: redirect", -2, None, None],
        ["read", 10, 1000, 6.0],
        ["- duplicate", -2, -200, -1.2],
        ["- empty", -1, 0, 0.0],
        ["train", 6, 700, 4.2],
        ["validation", 1, 100, 0.6],
    ]


def test_what_cleaning_and_cutting_changed_has_a_row_so_that_sums_come_out() -> None:
    rows = waterfall(source(Counts(11, 850, 5_000_000), {}))
    assert rows[2] == ["+ cut into parts, cleaned", 2, -50, -0.4]
    numbers = [[cell or 0 for cell in row[1:]] for row in rows[1:]]
    for column in range(3):
        read, changed, train, validation = (row[column] for row in numbers)
        assert abs(read + changed - train - validation) < 1e-9  # type: ignore[operator]


def test_cleaning_alone_only_takes_away() -> None:
    rows = waterfall(source(Counts(9, 850, 5_000_000), {}))
    assert rows[2] == ["- cleaned", 0, -50, -0.4]


def test_a_few_line_ends_are_no_row() -> None:
    steps = [row[0] for row in waterfall(source(Counts(9, 900, 5_399_990), {}))]
    assert steps == ["skipped: redirect", "read", "train", "validation"]
