"""Mail in a folder or a mailbox a label: what is read, what is set aside, and what is no label."""

from collections import Counter
from pathlib import Path

import pytest

from llmstages.data.class_folders import class_files
from llmstages.data.file_kind import detect_kinds
from llmstages.data.labelled_files import data_files
from llmstages.data.labelled_texts import read_known_labels, read_labelled_texts, read_texts
from llmstages.errors import UserError
from llmstages.stages.shared.rows import data_hash

HTML = (
    "From: a@example.org\nSubject: =?utf-8?b?R2V3aW5u?=\nMIME-Version: 1.0\n"
    "Content-Type: text/html; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n\n"
    "<html><style>p{}</style><p>Win a <b>m=FChle</b></p></html>\n"
)
PLAIN = "From: b@example.org\nSubject: lunch\n\nAt noon?\n\n> quoted\n-- \nB.\n"
PICTURE = "From: c@example.org\nSubject: x\nContent-Type: image/png\n\nAAAA\n"


def put(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content, encoding="utf-8")


@pytest.fixture
def mails(tmp_path: Path) -> Path:
    folder = tmp_path / "mails"
    put(folder / "spam", a_eml=HTML, b_eml=PICTURE, d_eml="")
    put(folder / "ham" / "cur", **{"1234.host:2,S": PLAIN, "list": "mv 1 2\n", "c_txt": "A note."})
    put(folder, README_md="Two kinds of mail.")
    (folder / "spam" / "logo.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    (folder / ".git").mkdir()
    return folder


def test_a_folder_a_label(mails: Path, caplog: pytest.LogCaptureFixture) -> None:
    aside: Counter[str] = Counter()
    rows = read_labelled_texts(mails, aside=aside)
    assert detect_kinds(mails) == {"classify"}
    found = {Path(row.path).name: (row.label, row.text) for row in rows}
    assert found == {
        "a.eml": ("spam", "Gewinn\n\nWin a mühle"),
        "1234.host:2,S": ("ham", "lunch\n\nAt noon?"),
        "c.txt": ("ham", "A note."),
    }
    assert aside == {
        "message without text": 1,
        "empty file": 1,
        "no mail and no text (.png)": 1,
        "no mail and no text (no suffix)": 1,
    }
    assert "4 set aside: 1 " in caplog.text
    assert [id for id, _ in read_texts(mails / "spam")] == ["a.eml"]

    known, num_aside = read_known_labels(mails, ["ham", "spam"])
    assert (known, num_aside) == (rows, 4)
    with pytest.raises(UserError, match="spam: the classifier has no label 'spam': did you mean"):
        read_known_labels(mails, ["ham", "spam2"])
    assert len(read_known_labels(mails, ["ham", "spam2"], bad_rows="skip")[0]) == 2

    before = data_hash([str(mails)])
    (mails / "ham" / "cur" / "c.txt").rename(mails / "spam" / "c.txt")
    assert data_hash([str(mails)]) != before


def test_a_mailbox_a_label(tmp_path: Path) -> None:
    start = "From a@example.org Mon Jan  4 10:22:00 2021\n"
    put(tmp_path / "boxes", spam_mbox=f"{start}{HTML}\n" * 2, ham_mbox=f"{start}{PLAIN}")
    rows = read_labelled_texts(tmp_path / "boxes")
    assert [(row.label, row.line) for row in rows] == [("ham", 1), ("spam", 1), ("spam", 2)]
    found = list(read_texts(tmp_path / "boxes" / "spam.mbox"))
    assert [id for id, _ in found] == ["spam.mbox#1", "spam.mbox#2"]


def test_what_is_no_folder_of_labels(tmp_path: Path) -> None:
    put(tmp_path / "rows" / "a", x_csv="text,label\na,b\n", y_csv="text,label\na,b\n")
    put(tmp_path / "rows" / "b", NOTES_txt="About the rows.")
    assert class_files(tmp_path / "rows") == {}
    put(tmp_path / "languages" / "en", part_jsonl="{}", README_txt="About.", LICENSE="All free.")
    assert data_files(tmp_path / "languages") == [tmp_path / "languages" / "en" / "part.jsonl"]
    for folder in ("rows/a", "languages/en"):
        with pytest.raises(UserError, match="a directory where a file is expected: name one of"):
            read_texts(tmp_path / folder)
    put(tmp_path / "texts" / "pos", **{f"{number}_txt": "good" for number in range(11)})
    put(tmp_path / "texts" / "pos", labels_csv="a,b")
    assert list(class_files(tmp_path / "texts")) == ["pos"]
    put(tmp_path / "one" / "spam", a_eml=HTML)
    with pytest.raises(UserError, match="all 1 rows have the label 'spam'"):
        read_labelled_texts(tmp_path / "one")
    put(tmp_path / "parts" / "train" / "pos", a_txt="good")
    put(tmp_path / "parts" / "test" / "pos", a_txt="good")
    with pytest.raises(UserError, match="are parts of a data set: name them, such as data="):
        detect_kinds(tmp_path / "parts")


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    folder = tmp_path / "mails"
    put(folder / "ham", a_eml=PLAIN)
    put(folder / "caf\udce9", **{"m\udce9_eml": PLAIN, "x_b\udce9": "\0"})
    aside: Counter[str] = Counter()
    rows = read_labelled_texts(folder, aside=aside)
    ids = [id for id, _ in read_texts(folder)]
    assert [row.label for row in rows] == ["caf\\xe9", "ham"]
    assert ids == ["caf\\xe9/m\\xe9.eml", "ham/a.eml"]
    assert rows[0].path == f"{folder}/{ids[0]}"
    assert aside == {"no mail and no text (.b\\xe9)": 1}
