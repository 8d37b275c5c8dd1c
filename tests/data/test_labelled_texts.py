"""Texts and labels are found by their columns, and what cannot be used is said in one line."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmstages.data.file_kind import detect_kind
from llmstages.data.labelled_texts import (
    LabelledText,
    found_template,
    read_known_labels,
    read_labelled_texts,
    read_texts,
)
from llmstages.data.text_template import TextTemplate
from llmstages.errors import UserError

real_data = pytest.mark.skipif(
    "LLMSTAGES_DATA" not in os.environ, reason="LLMSTAGES_DATA names no real data"
)


class TestLabelledTexts:
    def test_columns_by_name_whatever_their_case(self, write: Callable[..., Path]) -> None:
        path = write("x.csv", "ID,Review,Sentiment\n1,good,pos\n2,bad, neg \n")
        assert read_labelled_texts(path) == [
            LabelledText("good", "pos", 2),
            LabelledText("bad", "neg", 3),
        ]

    def test_likelier_names_first(self, write: Callable[..., Path]) -> None:
        path = write("x.csv", "title,text,topic,label\na,b,c,d\ne,f,g,h\n")
        assert read_labelled_texts(path)[0] == LabelledText("b", "d", 2)

    def test_named_columns(self, write: Callable[..., Path]) -> None:
        path = write("x.tsv", "wert\tklasse\neins\ta\nzwei\tb\n")
        rows = read_labelled_texts(path, text_column="wert", label_column="KLASSE")
        assert rows == [LabelledText("eins", "a", 2), LabelledText("zwei", "b", 3)]

    def test_labels_that_are_no_text(self, jsonl: Callable[..., Path]) -> None:
        values = [1, 0, True, False, 2.0, 0.5, " x "]
        path = jsonl(*({"text": "t", "label": value} for value in values))
        labels = [row.label for row in read_labelled_texts(path)]
        assert labels == ["1", "0", "true", "false", "2", "0.5", "x"]

    def test_parquet_with_missing_labels(self, refusal: Callable[..., str], tmp_path: Path) -> None:
        path = tmp_path / "x.parquet"
        pq.write_table(pa.table({"text": ["a", "b", "c"], "label": [1.0, None, 2.0]}), path)
        assert "no label in 'label'" in refusal(read_labelled_texts, path)
        rows = read_labelled_texts(path, bad_rows="skip")
        assert rows == [LabelledText("a", "1", 1), LabelledText("c", "2", 3)]

    def test_empty_text_is_kept_and_empty_label_is_not(
        self, write: Callable[..., Path], refusal: Callable[..., str]
    ) -> None:
        path = write("x.csv", "text,label\n,a\nx,\ny,b\n")
        assert refusal(read_labelled_texts, path).startswith(f"{path}:3: no label in 'label'")
        rows = read_labelled_texts(path, bad_rows="skip")
        assert rows == [LabelledText("", "a", 2), LabelledText("y", "b", 4)]

    def test_first_bad_row_and_their_number(
        self, write: Callable[..., Path], refusal: Callable[..., str]
    ) -> None:
        path = write("x.jsonl", '{"text":"a","label":1}\n{"text":"b"}\n{\n{"label":2}\n')
        message = refusal(read_labelled_texts, path)
        assert message.startswith(f"{path}:2: no label in 'label' (3 bad rows")

    def test_an_object_is_no_label(
        self, jsonl: Callable[..., Path], refusal: Callable[..., str]
    ) -> None:
        path = jsonl({"text": "t", "label": {"a": 1}}, {"text": "t", "label": "x"})
        assert "one label a row" in refusal(read_labelled_texts, path)

    def test_any_number_of_labels(
        self, write: Callable[..., Path], jsonl: Callable[..., Path], refusal: Callable[..., str]
    ) -> None:
        lists = jsonl(
            {"text": "t", "labels": ["b", 1, "b"]},
            {"text": "u", "labels": []},
            {"text": "v", "labels": "a"},
        )
        found = [row.labels for row in read_labelled_texts(lists)]
        assert found == [("b", "1"), (), ("a",)]
        assert "is no text but an object" in refusal(
            read_labelled_texts, jsonl({"text": "t", "label": ["a", {"b": 1}]})
        )

        cells = write("cells.csv", "text,label\nt,b; a ;\nu,\n")
        rows = read_labelled_texts(cells, label_separator=";")
        assert [(row.labels, row.label) for row in rows] == [(("b", "a"), "b, a"), ((), "")]

        columns = write("columns.csv", "comment,mild,rude\nt,0,1\nu,true,0\nv,-1,0\n")
        named = ["rude", "mild"]
        assert refusal(read_labelled_texts, columns, label_column=named).startswith(
            f"{columns}:4: label 'mild' is '-1', neither 0 nor 1"
        )
        rows = read_labelled_texts(columns, None, named, bad_rows="skip")
        assert [row.labels for row in rows] == [("rude",), ("mild",)]
        same = read_known_labels(columns, named, bad_rows="skip", multi_label=True)
        assert same == (rows, 1)
        with pytest.raises(UserError, match="several labels a row, and the classifier gives one"):
            read_known_labels(columns, named, label_column=named)

    def test_pairs_of_texts(self, write: Callable[..., Path], refusal: Callable[..., str]) -> None:
        path = write("x.csv", "id,Premise,Hypothesis,label\n7,{Premise},b,yes\n8,,d,no\n")
        assert detect_kind(path) == "classify"
        template = found_template(path)
        assert template == TextTemplate.of(["Premise", "Hypothesis"])
        joined = ["Premise: {Premise}\nHypothesis: b", "Premise: \nHypothesis: d"]
        assert [row.text for row in read_labelled_texts(path)] == joined
        assert list(read_texts(path, template=template)) == [("7", joined[0]), ("8", joined[1])]
        swapped = TextTemplate.of(["b", "a"], "{a}/{b}")
        other = write("other.csv", "a,b\nx,y\n")
        assert list(read_texts(other, template=swapped)) == [(2, "x/y")]
        assert list(read_texts(other, ["a", "b"], template=swapped)) == [(2, "y/x")]
        assert "text_column=[b,a]" in refusal(read_texts, other, "a", template=swapped)
        assert "no column 'Premise'" in refusal(read_texts, other, template=template)
        assert "has no place for {b}" in refusal(found_template, other, ["a", "b"], "a", "{a}")

    def test_one_text_of_rows_that_have_a_pair(
        self, write: Callable[..., Path], refusal: Callable[..., str]
    ) -> None:
        path = write("x.csv", "question,passage,title,label\na,b,t,yes\nc,d,t,no\n")
        template = found_template(path, "Question")
        assert template is not None
        record = template.as_record()
        assert record == {"text_columns": ["question"]}
        kept = TextTemplate.from_record(record)
        labels = ["yes", "no"]
        for found in (
            read_labelled_texts(path, "Question", template=template),
            read_labelled_texts(path, template=kept),
            read_known_labels(path, labels, template=kept)[0],
        ):
            assert [row.text for row in found] == ["a", "c"]
        assert list(read_texts(path, template=kept)) == [(2, "a"), (3, "c")]
        assert list(read_texts(path)) == [(2, "t"), (3, "t")]
        other = write("other.csv", "text,passage\ne,f\n")
        assert list(read_texts(other, template=kept)) == [(2, "e")]
        named = ["question", "passage"]
        assert "text_column=question" in refusal(read_texts, path, named, template=kept)
        for bad in ({"text_columns": 5}, {"text_columns": [5]}, {"text_template": "{a}"}):
            assert "no names of columns" in refusal(TextTemplate.from_record, bad)

    def test_missing_column(self, write: Callable[..., Path], refusal: Callable[..., str]) -> None:
        path = write("x.csv", "text,foo\na,b\nc,d\n")
        message = refusal(read_labelled_texts, path)
        assert message == (
            f"{path}: no column for the label; its columns: text, foo; "
            "name it with label_column=..."
        )
        message = refusal(read_labelled_texts, path, label_column="fo")
        assert message.endswith("its columns: text, foo; did you mean label_column=foo?")

    def test_one_label_only(self, write: Callable[..., Path], refusal: Callable[..., str]) -> None:
        path = write("x.csv", "text,label\na,ham\nb,ham\n")
        assert "all 2 rows have the label 'ham'" in refusal(read_labelled_texts, path)
        assert len(read_labelled_texts(path, one_label=True)) == 2

    def test_no_rows(self, write: Callable[..., Path], refusal: Callable[..., str]) -> None:
        path = write("x.csv", "text,label\n")
        assert "no row with a text and a label" in refusal(read_labelled_texts, path)

    @pytest.mark.parametrize("flip", [False, True])
    def test_headerless_label_is_the_column_with_fewer_values(
        self, write: Callable[..., Path], flip: bool
    ) -> None:
        cells = [("the first", "1"), ("a second", "0"), ("third one", "1")]
        lines = ["\t".join(reversed(pair) if flip else pair) for pair in cells]
        path = write("x.tsv", "\n".join(lines))
        assert read_labelled_texts(path)[1] == LabelledText("a second", "0", 2)
        only_text_named = read_labelled_texts(path, text_column="2" if flip else "1")
        assert only_text_named[1] == LabelledText("a second", "0", 2)

    def test_headerless_in_doubt(
        self, write: Callable[..., Path], refusal: Callable[..., str]
    ) -> None:
        path = write("x.tsv", "Go.\tVa !\nHi.\tSalut !\n")
        assert "label_column=2" in refusal(read_labelled_texts, path)


class TestTexts:
    def test_no_label_is_needed(self, write: Callable[..., Path]) -> None:
        path = write("x.csv", "date,message\n1,a\n2,\n")
        assert list(read_texts(path)) == [(2, "a"), (3, "")]

    def test_an_id_is_passed_on(self, jsonl: Callable[..., Path]) -> None:
        path = jsonl({"id": "x7", "key": 9, "text": "a"}, {"id": None, "text": "b"})
        assert list(read_texts(path)) == [("x7", "a"), (2, "b")]
        found = read_texts(path, id_column="key")
        assert next(found) == (9, "a")
        with pytest.raises(UserError, match=r":2: no 'key'"):
            next(found)
        with pytest.raises(UserError, match="did you mean id_column=key"):
            read_texts(path, id_column="kex")

    def test_a_single_column_is_the_text(self, jsonl: Callable[..., Path]) -> None:
        assert list(read_texts(jsonl({"foo": "a"}, {"foo": "b"}))) == [(1, "a"), (2, "b")]

    def test_plain_lines(self, write: Callable[..., Path]) -> None:
        path = write("x.txt", "one, two\n\nthree\n")
        assert list(read_texts(path)) == [(1, "one, two"), (3, "three")]

    def test_nothing_comes_after_a_bad_row(self, jsonl: Callable[..., Path]) -> None:
        path = jsonl({"text": "a"}, {"text": None}, {"text": "b"}, {"text": [1]})
        texts = read_texts(path)
        assert next(texts) == (1, "a")
        with pytest.raises(UserError, match=r":2: no 'text' \(2 bad rows"):
            next(texts)
        assert list(read_texts(path, bad_rows="skip")) == [(1, "a"), (3, "b")]


@real_data
@pytest.mark.parametrize(
    ("name", "rows", "labels"),
    [
        ("classify/sms_spam/SMSSpamCollection", 5574, 2),
        ("classify/banking77/train.csv", 10003, 77),
        ("classify/snips/train.csv", 13084, 7),
        ("classify/korean_3i4k/fci_test.txt", 6121, 7),
    ],
)
def test_classify(name: str, rows: int, labels: int) -> None:
    path = Path(os.environ["LLMSTAGES_DATA"]) / name
    assert detect_kind(path) == "classify"
    examples = read_labelled_texts(path)
    assert (len(examples), len(Counter(row.label for row in examples))) == (rows, labels)


@real_data
@pytest.mark.parametrize("encoding", ["cp949", "latin-1", "utf-16", "utf-8-sig"])
def test_other_encodings(tmp_path: Path, encoding: str) -> None:
    name = "korean_3i4k/fci_test.txt" if encoding == "cp949" else "snips/test.csv"
    path = Path(os.environ["LLMSTAGES_DATA"]) / "classify" / name
    copy = tmp_path / path.name
    text = path.read_text(encoding="utf-8").encode(encoding, errors="ignore").decode(encoding)
    copy.write_bytes(text.encode(encoding))
    plain = tmp_path / f"plain-{path.name}"
    plain.write_text(text, encoding="utf-8")
    assert read_labelled_texts(copy) == read_labelled_texts(plain)
