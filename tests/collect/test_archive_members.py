"""Archives are read member by member, and whatever they are made to do comes to nothing."""

import gzip
import io
import struct
import tarfile
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmstages.collect.sources import archives
from llmstages.collect.sources.files import read_file
from llmstages.collect.sources.listing import list_files
from llmstages.collect.sources.records import Note, RawDocument, Skipped
from llmstages.config.collect_groups import SourceConfig
from llmstages.data import opening
from llmstages.errors import UserError


def read(
    path: Path, bad_rows: str = "skip", **settings: Any
) -> tuple[dict[str, str], dict[str, int], list[str]]:
    """Texts by locator, what was skipped, and what was said."""
    source = SourceConfig(paths=[str(path)], **settings)
    (entry,), _ = list_files("s", source.paths, source.format)
    documents: dict[str, str] = {}
    skipped: Counter[str] = Counter()
    notes: list[str] = []
    for found in read_file(entry, source, bad_rows):
        if isinstance(found, RawDocument):
            key = f"{found.locator}:{found.ordinal}" if found.ordinal else found.locator
            assert key not in documents
            documents[key] = found.text
        elif isinstance(found, Skipped):
            skipped[found.reason] += found.count
        else:
            assert isinstance(found, Note)
            notes.append(f"{found.locator}: {found.text}")
    return documents, dict(skipped), notes


def zipped(members: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def tarred(members: Mapping[str, bytes], mode: Any = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def zstandard(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


def parquet() -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"text": ["three", "four"]}), file)
    return file.getvalue()


MEMBERS = {
    "a/one.txt": b"one",
    "two.txt.gz": gzip.compress(b"two"),
    "rows.parquet": parquet(),
    "rows.jsonl": b'{"text": "five"}\n{"text": "six"}\n',
    "README": b"seven",
    "image.png": b"\x89PNG\x00\x01",
    "style.css": b"p { color: red }",
    ".DS_Store": b"hidden",
    "__MACOSX/one.txt": b"hidden",
    "empty.txt": b"",
}
EXPECTED = {
    "a/one.txt": "one",
    "two.txt.gz": "two",
    "rows.parquet": "three",
    "rows.parquet:1": "four",
    "rows.jsonl": "five",
    "rows.jsonl:1": "six",
    "README": "seven",
}
PACKED = {
    "x.zip": zipped(MEMBERS),
    "x.tar": tarred(MEMBERS),
    "x.tar.gz": tarred(MEMBERS, "w:gz"),
    "x.tgz": tarred(MEMBERS, "w:gz"),
    "x.tar.bz2": tarred(MEMBERS, "w:bz2"),
    "x.tar.xz": tarred(MEMBERS, "w:xz"),
    "x.tar.zst": zstandard(tarred(MEMBERS)),
    "x": tarred(MEMBERS),
}


@pytest.mark.parametrize("name", PACKED)
def test_every_member_is_read_as_the_file_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(PACKED[name])
    documents, skipped, notes = read(tmp_path / name)
    assert documents == {f"{name}/{member}": text for member, text in EXPECTED.items()}
    assert skipped == {"empty file": 1}
    assert notes == [f"{name}: left aside, no readable text: 2 files (1 .png, 1 .css)"]
    assert list(tmp_path.iterdir()) == [tmp_path / name]  # nothing was unpacked


def test_archives_in_archives_end_at_depth_two(tmp_path: Path) -> None:
    third = zipped({"deep.txt": b"too deep"})
    second = tarred({"in.txt": b"two", "third.zip": third}, "w:gz")
    (tmp_path / "x.zip").write_bytes(zipped({"one.txt": b"one", "second.tar.gz": second}))
    documents, skipped, _ = read(tmp_path / "x.zip")
    assert documents == {"x.zip/one.txt": "one", "x.zip/second.tar.gz/in.txt": "two"}
    assert skipped == {"archive nested too deep": 1}


UNSAFE = ("/etc/passwd.txt", "../up.txt", "a/../../up.txt", "C:\\windows.txt", "..\\up.txt")


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_names_that_lead_outside(tmp_path: Path, pack: Any) -> None:
    (tmp_path / "x.zip").write_bytes(
        pack({"./fine.txt": b"one"} | dict.fromkeys(UNSAFE, b"bad") | {"..fine.txt/y": b"hid"})
    )
    documents, skipped, _ = read(tmp_path / "x.zip")
    assert documents == {"x.zip/fine.txt": "one"}
    assert skipped == {"member with an unsafe name": len(UNSAFE)}


def test_links_and_devices(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            entry = tarfile.TarInfo("a.txt")
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
        entry = tarfile.TarInfo("folder")
        entry.type = tarfile.DIRTYPE
        archive.addfile(entry)
    assert read(tmp_path / "x.tar")[:2] == ({}, {"member that is a link or device": 4})
    link = zipfile.ZipInfo("a.txt")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        packed.writestr(link, "/etc/passwd")
    assert read(tmp_path / "x.zip")[:2] == ({}, {"member that is a link or device": 1})


def test_equal_names_give_different_documents(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(
        tarred({"a.txt": b"old"})[:1024] + tarred({"a.txt": b"new", "./a.txt": b"newer"})
    )
    assert read(tmp_path / "x.tar")[0] == {
        "x.tar/a.txt": "old",
        "x.tar/a.txt#2": "new",
        "x.tar/a.txt#3": "newer",
    }


def test_encrypted_and_broken_members_of_a_zip(tmp_path: Path) -> None:
    data = bytearray(zipped({"a.txt": b"one " * 99, "b.txt": b"two", "c.txt": b"three"}))
    with zipfile.ZipFile(io.BytesIO(bytes(data))) as archive:
        entries = archive.infolist()
        start = archive.start_dir
    # The first member gets a bit of its data flipped, the second is declared encrypted.
    data[entries[0].header_offset + 30 + len("a.txt") + 2] ^= 0x10
    second = bytes(data).index(b"PK\x01\x02", start + 46)
    data[second + 8] |= 1
    (tmp_path / "x.zip").write_bytes(bytes(data))
    documents, skipped, notes = read(tmp_path / "x.zip")
    assert documents == {"x.zip/c.txt": "three"}
    assert skipped == {"encrypted member": 1, "broken or cut-off data": 1}
    assert notes[0].startswith("x.zip/a.txt: broken or cut-off data")
    with pytest.raises(UserError, match=r"x\.zip: broken or cut-off data"):
        read(tmp_path / "x.zip", bad_rows="refuse")


def test_members_that_pack_too_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "BOMB_BYTES", 2**20)
    for name, data in [
        ("x.zip", zipped({"a.txt": bytes(2**22)})),
        # No member is a bomb, but all together are.
        ("y.zip", zipped({f"{number}.txt": bytes(2**19) for number in range(10)})),
        ("z.tar.gz", tarred({f"{number}.txt": bytes(2**19) for number in range(20)}, "w:gz")),
        ("u.zip", zipped({"nested.zip": zipped({"a.txt": bytes(2**22)})})),
    ]:
        (tmp_path / name).write_bytes(data)
        documents, skipped, notes = read(tmp_path / name)
        assert sum(map(len, documents.values())) < 2**22
        assert skipped["broken or cut-off data"] >= 1, name
        assert "decompression bomb" in notes[0]


def test_members_that_overlap(tmp_path: Path) -> None:
    """Fifield's better zip bomb: many entries for the same packed bytes."""
    data = zipped({"a.txt": b"text " * 10_000})
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        start = archive.start_dir
    entry = data[start : data.index(b"PK\x05\x06")]
    entries = b"".join(entry.replace(b"a.txt", b"%05d" % number) for number in range(50))
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 50, 50, len(entries), start, 0)
    (tmp_path / "x.zip").write_bytes(data[:start] + entries + end)
    documents, skipped, notes = read(tmp_path / "x.zip")
    assert documents == {}
    assert skipped == {"broken or cut-off data": 1}
    assert "overlap" in notes[0]


def test_a_zip_with_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_CONTENTS_BYTES", 1000)
    (tmp_path / "x.zip").write_bytes(zipped({f"{n}.txt": b"x" for n in range(50)}))
    documents, _, notes = read(tmp_path / "x.zip")
    assert documents == {}
    assert "pack it as .tar" in notes[0]


def test_members_before_the_cut_of_a_tar_are_kept(tmp_path: Path) -> None:
    rows = b"".join(b'{"text": "row %d"}\n' % number for number in range(20_000))
    data = tarred({"a.txt": b"one", "b.jsonl": rows, "c.txt": b"lost"})
    packed = gzip.compress(data)
    for name, cut in [("x.tar", data[:200_000]), ("x.tar.gz", packed[: len(packed) // 2])]:
        (tmp_path / name).write_bytes(cut)
        documents, skipped, _ = read(tmp_path / name)
        assert documents[f"{name}/a.txt"] == "one"
        assert documents[f"{name}/b.jsonl:20"] == "row 20"
        assert f"{name}/c.txt" not in documents
        assert skipped["broken or cut-off data"] >= 1


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.type = size, kind
    return entry.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "data",
    [
        header("a.txt", 2**62) + b"text",  # would be looked for until the end of time
        header("a.png", 2**62) + b"text",
        header("a.txt", -512) * 2,
        header("a.txt", 2**40, tarfile.XHDTYPE) + bytes(2**17),  # would be kept in memory
        header("a.txt", 2**40, tarfile.GNUTYPE_LONGNAME) + bytes(2**17),
        header("././@LongLink", 4, tarfile.GNUTYPE_LONGNAME).ljust(1024, b"a") * 2000,
        header("a.txt", 10, tarfile.GNUTYPE_SPARSE) + bytes(1024),
    ],
)
def test_headers_that_lie(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(tarred({"first.txt": b"one"})[:1024] + data)
    documents, skipped, _ = read(tmp_path / "x.tar")
    assert documents["x.tar/first.txt"] == "one"
    assert skipped["broken or cut-off data"] >= 1


def test_many_tiny_members_in_bounded_memory(tmp_path: Path) -> None:
    data = b"".join(
        header(f"{number}.txt", 4) + b"text".ljust(512, b"\0") for number in range(5000)
    )
    (tmp_path / "x.tar").write_bytes(data + bytes(1024))
    source = SourceConfig(paths=[str(tmp_path / "x.tar")])
    (entry,), _ = list_files("s", source.paths)
    tracemalloc.start()
    num_documents = sum(
        isinstance(found, RawDocument) for found in read_file(entry, source, "skip")
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num_documents == 5000
    assert peak < 6_000_000


def test_notes_on_members_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(zipped({f"{n}.json": b"[{" for n in range(50)}))
    _, skipped, notes = read(tmp_path / "x.zip")
    assert skipped == {"broken or cut-off data": 50}
    assert len(notes) == archives.NUM_NOTES + 1
    assert notes[-1] == "x.zip: 40 further notes on its members"


def test_tables_without_text_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(
        zipped({"a.json": b'{"version": 1, "size": 2}', "b.txt": b"one"})
    )
    documents, skipped, notes = read(tmp_path / "x.zip")
    assert documents == {"x.zip/b.txt": "one"}
    assert skipped == {"no text column": 1}
    assert notes[0].startswith("x.zip/a.json: no text column found, its columns are: version, size")


def test_of_an_archive_what_is_of_the_format(tmp_path: Path) -> None:
    (tmp_path / "x.dat").write_bytes(zipped(MEMBERS))
    documents, _, _ = read(tmp_path / "x.dat", format="table")
    assert documents == {
        f"x.dat/{member}": text for member, text in EXPECTED.items() if member.startswith("rows")
    }
