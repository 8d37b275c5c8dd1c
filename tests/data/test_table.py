"""Rows come out of every format and encoding, with their lines, and bad rows never in silence."""

import bz2
import gzip
import json
import logging
import lzma
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmstages.data.rows import place
from llmstages.data.table import read_rows
from llmstages.errors import UserError

KOREAN = (
    "0\t연두색 꽃이 피었다\n1\t지금 몇 시야\n1\t회의는 언제 시작하니\n0\t오늘은 날씨가 참 좋네\n"
)


def write(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows_of(path: Path, bad_rows: str = "refuse") -> list[tuple[int, dict[str, object]]]:
    return [(row.line, row.values) for row in read_rows(path, bad_rows=bad_rows).rows]


def refusal(path: Path, **options: str) -> str:
    with pytest.raises(UserError) as caught:
        list(read_rows(path, **options).rows)
    message = str(caught.value)
    assert "\n" not in message
    return message


class TestEncoding:
    @pytest.mark.parametrize(
        ("encoding", "said"), [("utf-8", None), ("cp949", "cp949"), ("utf-16", "utf-16")]
    )
    def test_said_once(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, encoding: str, said: str | None
    ) -> None:
        path = write(tmp_path, "x.tsv", KOREAN.encode(encoding))
        with caplog.at_level(logging.INFO, logger="llmstages"):
            rows = rows_of(path)
        assert rows[1] == (2, {"1": "1", "2": "지금 몇 시야"})
        assert caplog.messages == ([f"{path}: read as {said}"] if said else [])


class TestJsonLines:
    def test_rows_and_lines(self, tmp_path: Path) -> None:
        path = write(tmp_path, "x.jsonl", '{"a": 1}\r\n\n{"a": "\u2028\x85"}\n')
        assert rows_of(path) == [(1, {"a": 1}), (3, {"a": "\u2028\x85"})]

    def test_broken_on_line_3_is_refused(self, tmp_path: Path) -> None:
        path = write(tmp_path, "x.jsonl", '{"a": 1}\n{"a": 2}\n{"a": 3\n{"a": 4}\n{"a" 5}\n')
        message = refusal(path)
        assert message.startswith(f"{path}:3: broken JSON (Expecting ',' delimiter")
        assert "2 bad rows" in message
        assert "bad_rows=skip" in message

    def test_skip_counts_and_warns(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        path = write(tmp_path, "x.jsonl", '{"a": 1}\n{"a": \n{"a": 3}\n[\n')
        table = read_rows(path, bad_rows="skip")
        assert [row.line for row in table.rows] == [1, 3]
        assert [line for line, _ in table.skipped] == [2, 4]
        assert "2 bad rows skipped, the first on line 2" in caplog.text

    @pytest.mark.parametrize(
        "broken",
        [
            '{"a": NaN}',
            '{"a": [-Infinity]}',
            '{"a": 1e999}',
            '{"a": "\\ud800"}',
            '{"a": "\\udc00 x"}',
            '{"\\ud800": 1}',
            '{"a": "\\u0000"}',
            '{"a": "\x00"}',
            '"only text"',
            "7",
            '{"a": 1} {"a": 2}',
            '{"a": 1' + "0" * 5000 + "}",
            '{"a": ' + "[" * 100_000,
        ],
    )
    def test_what_no_row_may_hold(self, tmp_path: Path, broken: str) -> None:
        path = write(tmp_path, "x.jsonl", '{"a": "fine"}\n' + broken + '\n{"a": "also"}\n')
        table = read_rows(path, bad_rows="skip")
        assert [row.line for row in table.rows] == [1, 3]
        assert [line for line, _ in table.skipped] == [2]

    def test_surrogate_pairs_are_characters(self, tmp_path: Path) -> None:
        path = write(tmp_path, "x.jsonl", '{"a": "\\ud83d\\ude00"}\n')
        assert rows_of(path) == [(1, {"a": "😀"})]

    def test_a_broken_byte_spoils_only_its_row(self, tmp_path: Path) -> None:
        lines = [json.dumps({"a": f"한국어 {n}"}, ensure_ascii=False).encode() for n in range(9)]
        lines[4] = lines[4].replace("국".encode(), b"\xea\xb5")
        table = read_rows(write(tmp_path, "x.jsonl", b"\n".join(lines)), bad_rows="skip")
        assert len(list(table.rows)) == 8
        assert [line for line, _ in table.skipped] == [5]

    def test_streams(self, tmp_path: Path) -> None:
        # The broken line is past what is looked at ahead: rows come before it is reached.
        path = write(tmp_path, "x.jsonl", '{"a": 1}\n' * 1000 + "broken\n")
        rows = read_rows(path).rows
        assert [next(rows).line for _ in range(900)] == list(range(1, 901))
        with pytest.raises(UserError, match=r"x\.jsonl:1001: broken JSON"):
            list(rows)

    def test_json_list_in_a_jsonl_file(self, tmp_path: Path) -> None:
        assert rows_of(write(tmp_path, "x.jsonl", '[\n{"a": 1},\n{"a": 2}\n]')) == [
            (2, {"a": 1}),
            (3, {"a": 2}),
        ]


class TestJson:
    def test_lines_of_objects(self, tmp_path: Path) -> None:
        text = '[\n  {\n    "a": 1\n  },\n  {"a": 2}, {"a": 3}\n]\n'
        assert [line for line, _ in rows_of(write(tmp_path, "x.json", text))] == [2, 5, 5]

    def test_list_inside_an_object(self, tmp_path: Path) -> None:
        text = '{"data": [\n{"a": 1},\n{"a": 2}]}'
        assert rows_of(write(tmp_path, "x.json", text)) == [(2, {"a": 1}), (3, {"a": 2})]

    def test_list_among_other_keys(self, tmp_path: Path) -> None:
        text = '{"data": [\n{"a": 1}],\n"version": {"x": 2}\n}\n'
        assert rows_of(write(tmp_path, "x.json", text)) == [(2, {"a": 1})]

    def test_records_of_a_single_line(self, tmp_path: Path) -> None:
        path = write(tmp_path, "x.json", '[{"a": 1}, 2, {"a": 3}]\n')
        with pytest.raises(UserError, match=r"x\.json:1: record 2: an object is expected"):
            list(read_rows(path).rows)
        rows = list(read_rows(path, bad_rows="skip").rows)
        assert [place(row.line) for row in rows] == ["record 1", "record 3"]

    def test_json_lines_in_a_json_file(self, tmp_path: Path) -> None:
        assert rows_of(write(tmp_path, "x.json", '{"a": 1}\n{"a": 2}\n'))[1] == (2, {"a": 2})

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ('[\n{"a": 1},\n{"a": 2\n]', 4),
            ('[\n{"a": 1}\n{"a": 2}]', 3),
            ('[\n{"a": 1},\n', 3),
            ('[{"a": 1}]\nmore', 2),
        ],
    )
    def test_broken(self, tmp_path: Path, text: str, line: int) -> None:
        path = write(tmp_path, "x.json", text)
        assert refusal(path, bad_rows="skip").startswith(f"{path}:{line}: broken JSON")

    def test_bad_row_in_a_list(self, tmp_path: Path) -> None:
        path = write(tmp_path, "x.json", '[\n{"a": NaN},\n{"a": "\\ud800"},\n{"a": 1}]')
        assert rows_of(path, "skip") == [(4, {"a": 1})]
        assert refusal(path).startswith(f"{path}:2: NaN")


class TestDelimited:
    def test_quoted_line_breaks_keep_line_numbers(self, tmp_path: Path) -> None:
        text = 'text,label\r\n"one\r\ntwo, ""three""",a\r\n\r\nfour,b\r\n'
        assert rows_of(write(tmp_path, "x.csv", text)) == [
            (2, {"text": 'one\r\ntwo, "three"', "label": "a"}),
            (5, {"text": "four", "label": "b"}),
        ]

    def test_semicolons(self, tmp_path: Path) -> None:
        path = write(tmp_path, "x.csv", "text;label\none, two, three;a\nfour;b\n")
        assert rows_of(path)[0] == (2, {"text": "one, two, three", "label": "a"})

    def test_mark_at_the_start(self, tmp_path: Path) -> None:
        path = write(tmp_path, "x.csv", b"\xef\xbb\xbftext,label\na,b\n")
        assert read_rows(path).columns == ["text", "label"]

    def test_utf16_file(self, tmp_path: Path) -> None:
        path = write(tmp_path, "x.csv", "text,label\r\n한글,b\r\n".encode("utf-16"))
        assert rows_of(path) == [(2, {"text": "한글", "label": "b"})]

    def test_large_field(self, tmp_path: Path) -> None:
        path = write(tmp_path, "x.csv", f"text,label\n{'x' * 1_000_000},a\n")
        assert len(str(rows_of(path)[0][1]["text"])) == 1_000_000

    def test_blank_columns_at_the_end(self, tmp_path: Path) -> None:
        path = write(tmp_path, "x.csv", "v1,v2,,,\nham,hello,,,\nspam,win,,,\n")
        assert rows_of(path)[1] == (3, {"v1": "spam", "v2": "win"})

    def test_filled_columns_without_a_name_are_kept(self, tmp_path: Path) -> None:
        path = write(tmp_path, "x.csv", "v1,v2,,\nham,hello,,\nspam,win, now,\n")
        assert rows_of(path)[1] == (3, {"v1": "spam", "v2": "win", "3": " now"})

    def test_uneven_rows(self, tmp_path: Path) -> None:
        path = write(tmp_path, "x.csv", "text,label\na,b\nc\nd,e,f\ng,h,\n")
        table = read_rows(path, bad_rows="skip")
        assert [row.line for row in table.rows] == [2, 5]
        assert table.skipped == [
            (3, "1 field where the header has 2"),
            (4, "3 fields where the header has 2"),
        ]

    def test_quote_that_is_never_closed(self, tmp_path: Path) -> None:
        path = write(tmp_path, "x.csv", 'label,text\na,fine\nb,"open\nc,swallowed\n')
        message = refusal(path)
        assert message.startswith(f"{path}:3: broken quoting (a quote opened here is never closed")

    def test_backslash_escapes(self, tmp_path: Path) -> None:
        path = write(tmp_path, "x.csv", 'text,label\n"say \\"hi\\", you",a\n"b",c\n')
        assert rows_of(path)[0] == (2, {"text": 'say "hi", you', "label": "a"})

    def test_quotes_in_tsv_are_characters(self, tmp_path: Path) -> None:
        text = 'label\ttext\nham\t"hello\nham\tsay "hi" now\nspam\t"win" it\nham\t5"\n'
        assert [values["text"] for _, values in rows_of(write(tmp_path, "x", text))] == [
            '"hello',
            'say "hi" now',
            '"win" it',
            '5"',
        ]

    def test_really_quoted_tsv(self, tmp_path: Path) -> None:
        text = 'label\ttext\n"a"\t"one\ttwo\nthree ""x"""\n"b"\t"four"\n'
        assert rows_of(write(tmp_path, "x.tsv", text)) == [
            (2, {"label": "a", "text": 'one\ttwo\nthree "x"'}),
            (4, {"label": "b", "text": "four"}),
        ]

    def test_nul(self, tmp_path: Path) -> None:
        path = write(tmp_path, "x.csv", "text,label\na\x00b,c\n" + "fine,d\n" * 300)
        assert refusal(path).startswith(f"{path}:2: a NUL character")

    @pytest.mark.parametrize(
        ("name", "text", "has_header"),
        [
            ("x.csv", "Q,A\nhow?,so\n", True),
            ("x.csv", "wert,klasse\neins,a\nzwei,b\n", True),
            ("x.csv", "atis_flight, i want to fly from boston at 838 am to denver\na, b\n", False),
            ("x.csv", "ham,hello\nham,you\nspam,win\n", False),
            ("x.csv", "good,1\nbad,0\n", False),
            ("x.tsv", "0\thello\n1\tyou\n", False),
            ("x.tsv", "Go.\tVa !\nHi.\tSalut !\n", False),
            ("x.tsv", "Sentence\tLABEL\nhello\t1\n", True),
        ],
    )
    def test_header(self, tmp_path: Path, name: str, text: str, has_header: bool) -> None:
        table = read_rows(write(tmp_path, name, text))
        assert table.has_header == has_header
        assert len(list(table.rows)) == text.count("\n") - has_header

    def test_header_by_the_users_names(self, tmp_path: Path) -> None:
        path = write(tmp_path, "x.tsv", "wert\tklasse\neins\ta\n")
        assert not read_rows(path).has_header
        assert read_rows(path, column_names=["Klasse"]).columns == ["wert", "klasse"]


class TestFiles:
    def test_parquet(self, tmp_path: Path) -> None:
        path = tmp_path / "x.parquet"
        pq.write_table(pa.table({"text": ["a", "b\x00", "c"], "label": [0, 1, 1]}), path)
        table = read_rows(path, bad_rows="skip")
        assert table.columns == ["text", "label"]
        assert [(row.line, row.values["text"]) for row in table.rows] == [(1, "a"), (3, "c")]
        assert table.skipped == [(2, "a NUL character")]

    def test_broken_parquet(self, tmp_path: Path) -> None:
        assert "Parquet" in refusal(write(tmp_path, "x.parquet", b"PAR1 nothing"))

    @pytest.mark.parametrize("packer", ["gz", "bz2", "xz", "zst"])
    def test_packed(self, tmp_path: Path, packer: str) -> None:
        data = "text,label\n한글,b\n".encode("cp949") * 1
        path = tmp_path / f"x.csv.{packer}"
        packers = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
        if packer in packers:
            path.write_bytes(packers[packer](data))
        else:
            with pa.output_stream(path, compression="zstd") as stream:
                stream.write(data)
        assert rows_of(path) == [(2, {"text": "한글", "label": "b"})]

    def test_cut_off_gzip(self, tmp_path: Path) -> None:
        whole = gzip.compress(os.urandom(10_000))
        assert "compressed" in refusal(write(tmp_path, "x.jsonl.gz", whole[:5000]))

    def test_plain_lines(self, tmp_path: Path) -> None:
        path = write(tmp_path, "x.txt", "one, two\n\nthree\n")
        assert rows_of(path) == [(1, {"text": "one, two"}), (3, {"text": "three"})]

    @pytest.mark.parametrize("content", ["", " \n\n", "\ufeff\n"])
    def test_empty(self, tmp_path: Path, content: str) -> None:
        path = write(tmp_path, "x.csv", content)
        assert refusal(path) == f"{path}: the file is empty"

    def test_missing_suggests_the_nearest_name(self, tmp_path: Path) -> None:
        write(tmp_path, "reviews.jsonl", "{}")
        assert "did you mean" in refusal(tmp_path / "review.jsonl")
        assert "reviews.jsonl" in refusal(tmp_path / "review.jsonl")

    def test_directory(self, tmp_path: Path) -> None:
        write(tmp_path, "a.csv", "x")
        assert "a directory where a file is expected" in refusal(tmp_path)


@pytest.mark.skipif("LLMSTAGES_DATA" not in os.environ, reason="LLMSTAGES_DATA names no real data")
class TestRealData:
    def test_sms_spam_is_a_tsv_without_suffix(self) -> None:
        path = Path(os.environ["LLMSTAGES_DATA"]) / "classify/sms_spam/SMSSpamCollection"
        table = read_rows(path)
        assert table.columns == ["Label", "SMS"]
        assert len(list(table.rows)) == 5574

    def test_json_test_suite(self) -> None:
        """No file of the suite brings anything but rows or a `UserError`."""
        folder = Path(os.environ["LLMSTAGES_DATA"]) / "dirty/json_test_suite"
        for path in sorted(folder.glob("*.json")):
            try:
                list(read_rows(path).rows)
                accepted = True
            except UserError:
                accepted = False
            value = path.read_bytes()
            if path.name.startswith("n_"):
                assert not accepted, path.name
            elif path.name.startswith("y_") and value.lstrip().startswith(b"[{"):
                assert accepted, path.name


def test_an_empty_text_in_quotes_is_a_row_and_a_blank_line_is_none(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    path.write_text('text\n"Win now"\n""\n\nsee you\n', encoding="utf-8")
    assert rows_of(path) == [(2, {"text": "Win now"}), (3, {"text": ""}), (5, {"text": "see you"})]
