"""Single messages and mailboxes."""

import base64
import io

import pytest

from llmstages.collect.sources import mail
from llmstages.collect.sources.mail import own_text, read_mail
from llmstages.collect.sources.records import Found, RawDocument, Skipped


def read(text: str | bytes) -> list[Found]:
    data = text.encode() if isinstance(text, str) else text
    return list(read_mail(io.BytesIO(data), "m"))


def text_of(text: str | bytes) -> str:
    (found,) = read(text)
    assert isinstance(found, RawDocument)
    return found.text


def test_message() -> None:
    (found,) = read(
        "From: Ada <ada@example.org>\r\nTo: bob@example.org\r\n"
        "Subject: =?utf-8?Q?Gr=C3=BC=C3=9Fe?=\r\n =?utf-8?B?IGFu?= alle\r\n"
        "Date: Mon, 4 Jan 2021 10:22:00 +0100\r\n\r\nHello\r\nBob,\r\n\r\n\r\n\r\nbye.\r\n"
    )
    assert found == RawDocument(
        "m",
        0,
        "Grüße an alle\n\nHello\nBob,\n\nbye.",
        metadata={"title": "Grüße an alle", "date": "2021-01-04T10:22:00+01:00"},
    )


def test_mailbox_is_cut_at_its_separators_only() -> None:
    found = read(
        "From ada@example.org Mon Jan  4 10:22:00 2021\n\nSubject of none\n"
        "From the middle 10:22 2021 of a paragraph\n\n"
        "From here on it goes on\n>From the quoted\n>>From twice\n\n"
        "From bob@example.org  Tue Jan  5 10:22:00 +0000 2021\nSubject: Two\n\nSecond\n\n"
        "From -\nSubject: Three\n\nThird\n"
    )
    assert [(each.ordinal, each.text) for each in found if isinstance(each, RawDocument)] == [
        (
            0,
            "Subject of none\nFrom the middle 10:22 2021 of a paragraph\n\n"
            "From here on it goes on\nFrom the quoted",  # a second ">" still is a quote
        ),
        (1, "Two\n\nSecond"),
        (2, "Three\n\nThird"),
    ]


def test_a_single_message_is_not_cut() -> None:
    body = "One\n\nFrom ada@example.org Mon Jan  4 10:22:00 2021\n\nTwo"
    assert text_of(f"Subject: S\n\n{body}") == f"S\n\n{body}"


def part(content_type: str, body: str, more: str = "") -> str:
    return f"--B\nContent-Type: {content_type}\n{more}\n{body}\n"


def multipart(kind: str, *parts: str) -> str:
    return (
        f'Content-Type: multipart/{kind}; boundary="B"\n\npreamble\n{"".join(parts)}--B--\nepilogue'
    )


PLAIN = part("text/plain", "Plain")
HTML = part("text/html; charset=utf-8", "<p>Rich <b>té</b>xt<blockquote type=cite>no</blockquote>")


def test_plain_text_is_preferred() -> None:
    assert text_of(multipart("alternative", HTML, PLAIN)) == "Plain"
    assert text_of(multipart("alternative", part("text/plain", " \n"), HTML)) == "Rich téxt"
    assert text_of(multipart("mixed", PLAIN, HTML)) == "Plain\n\nRich téxt"


def test_attachments_are_counted_not_read() -> None:
    assert read(
        multipart(
            "mixed",
            part("application/pdf", "JVBERi0="),
            part("text/plain", "no", "Content-Disposition: attachment\n"),
            part('text/plain; name="a.patch"', "no"),
            part("message/rfc822", "Subject: inner\n\nno"),
            PLAIN,
        )
    ) == [Skipped("attachment", 4), RawDocument("m", 0, "Plain")]
    assert read("Content-Type: image/png\n\nxx") == [
        Skipped("attachment", 1),
        Skipped("message without text"),
    ]


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ("Content-Transfer-Encoding: base64", base64.b64encode("é".encode()), "é"),
        ("Content-Transfer-Encoding: base64", b"%%%not base64", None),
        (
            "Content-Transfer-Encoding: quoted-printable",
            b"caf=C3=A9 =\nau lait =ZZ",
            "café au lait =ZZ",
        ),
        ("Content-Type: text/plain; charset=iso-8859-1", b"caf\xe9", "café"),
        ("Content-Type: text/plain; charset=us-ascii", "café".encode(), "café"),
        ("Content-Type: text/plain; charset=utf-8", b"caf\xe9 au lait", "café au lait"),
        ("Content-Type: text/plain; charset=no-such", "café".encode(), "café"),
        ("Content-Type: text/plain; charset=punycode", b"a-b", "a-b"),
        ("Content-Type: text/plain; charset*=bad'x", b"text", "text"),
        ("Content-Type: text/plain; format=flowed", b"One \ntwo\n three", "One two\nthree"),
    ],
)
def test_encodings(headers: str, body: bytes, expected: str | None) -> None:
    found = read(headers.encode() + b"\n\n" + body)
    if expected is None:
        assert len(found) == 1
    else:
        assert found == [RawDocument("m", 0, expected)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes.\n\nOn Monday, 4 Jan 2021, Ada wrote:\n\n> Is it?\n>> No\n\nBye", "Yes.\n\nBye"),
        ("On Mon, Jan 4, 2021 at 10:22 AM Ada L <a@b.org>\nwrote:\n> Is it?\nYes.", "Yes."),
        ("Am 4.1.21 schrieb Ada:\n> Is it?\nYes.\n> And?\nToo.", "Yes.\nToo."),
        ("He wrote:\nnothing.", "He wrote:\nnothing."),
        ("Text\n-- \nAda\n+49 123", "Text"),
        ("Text\n--\nAda", "Text"),
        ("Text\n--\n" + "more\n" * 20, "Text\n--\n" + "\n".join(["more"] * 20)),
        ("Text\n\n-----Original Message-----\nFrom: Ada\n\nold", "Text"),
        ("Text\n" + "_" * 47 + "\nList mailing list\nList@example.org\n", "Text"),
        (
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA1\n\nText\n"
            "-----BEGIN PGP SIGNATURE-----\nabc\n-----END PGP SIGNATURE-----",
            "Text",
        ),
    ],
)
def test_what_others_wrote_goes(text: str, expected: str) -> None:
    assert own_text(text) == expected


def test_long_message_is_counted_and_the_next_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "MESSAGE_BYTES", 1000)
    separator = "From ada@example.org Mon Jan  4 10:22:00 2021\n"
    found = read(f"{separator}\n{'word ' * 300}\n\n{separator}\nShort\n")
    assert found == [Skipped("message over 50 MB"), RawDocument("m", 1, "Short")]


def nested(levels: int) -> str:
    opening = "".join(
        f'Content-Type: multipart/mixed; boundary="b{n}"\n\n--b{n}\n' for n in range(levels)
    )
    return f"{opening}\nText\n"


@pytest.mark.parametrize(
    "data",
    [
        nested(10_000),
        "Content-Type: message/rfc822\n\n" * 10_000,
        "Subject: x\n" * 10_000 + "\n",
        "Subject: " + "=?utf-8?q?" * 20_000 + "\n\n\0\0",
        "Subject: =?utf-8?b?a?= =?x?q?=ZZ?= =?punycode?q?a?=\n\nText",
        "Date: Mon, 99 Foo 99999 25:61 +9999999\n\nText",
        "Content-Type: text/plain" + ";a=b" * 1_000_000 + "\n\nText",
        "Content-Type: text/plain" + ";a=b;a=b\n " * 200_000 + "\n\nText",
        "To: " + "(" * 100_000 + "\nContent-Type: " + ";a=" * 10_000 + "\n\nText",
        'Content-Type: multipart/mixed; boundary=""\n\n----\n\nText',
        "Content-Type: text/html\n\n" + "<div>" * 100_000,
        b"\xff\xfe\0\0" * 1000,
        b"\0" * 10_000,
        ": \n: \n\n",
        "On \n" * 50_000 + "> x\n",
    ],
)
def test_hostile_mail_ends(data: str | bytes) -> None:
    for found in read(data):
        assert isinstance(found, RawDocument | Skipped)


def test_deep_nesting_is_counted() -> None:
    assert read(nested(10_000)) == [Skipped("message of too many parts")]
    assert read("Content-Type: message/rfc822\n\n" * 10_000) == [
        Skipped("message that cannot be parsed")
    ]


def test_nothing_is_no_message() -> None:
    assert read("") == []
    assert read("\n\n") == []
    assert read("Subject: S\n\n> only\n") == [Skipped("message without text")]
