"""Personal data goes, what only resembles it stays."""

import time

import pytest

from llmstages.collect.cleaning.personal import replace_personal_data
from llmstages.config.collect_groups import PiiConfig

ALL = PiiConfig(replace_emails=True, replace_ips=True, replace_phones=True, replace_cards=True)


@pytest.mark.parametrize(
    ("text", "replaced"),
    [
        ("Write to jane.doe+x@mail.example.org.", "Write to <email>."),
        ("<mailto:jürgen@müller.de>", "<mailto:<email>>"),
        ("8.8.8.8, 8.8.4.4:53.", "<ip>, <ip>:53."),
        ("[2001:4860:4860::8888]:80", "[<ip>]:80"),
        ("tel. +49 (0)30 901820,", "tel. <phone>,"),
        ("+14155552671", "<phone>"),
        ("0049 30 901820", "<phone>"),
        ("(212) 736-5000 or 212.736.5000", "<phone> or <phone>"),
        ("1-800-275-2273", "<phone>"),
        ("020 7946 0958", "<phone>"),
        ("030/9018201", "<phone>"),
        ("02-2133-1234", "<phone>"),
        ("01 42 34 56 78", "<phone>"),
        ("4111 1111 1111 1111", "<card>"),
        ("5555-5555-5555-4444", "<card>"),
        ("3782 822463 10005", "<card>"),
        ("card 30569309025904.", "card <card>."),
    ],
)
def test_replaced(text: str, replaced: str) -> None:
    assert replace_personal_data(text, ALL) == replaced
    assert replace_personal_data(text, PiiConfig()) == text


@pytest.mark.parametrize(
    "text",
    [
        *("@decorator", "a@b", "user@host..com"),
        *("127.0.0.1", "10.0.0.1", "v1.2.3.4", "1.2.3.4.5", "300.1.1.1", "version 8.8.8.8"),
        *("2001:db8::1", "fe80::1", "::1", "12:30:45", "std::vector a::b", "2001:10:12"),
        *("1984", "1990-2000", "2021-10-12 10:11:12", "12.10.2021", "01.02.2003", "08/15/2020"),
        *("978-0-306-40615-7", "0-306-40615-2", "$1,234,567.89", "3.14159265358979"),
        *("10 000 000", "1 000 000 000", "001 002 003 004", "0012345678901", "123456789012"),
        *("100-200-3000", "555-1234", "123-45-6789", "+0.25 +0.33", "+100000000000 points"),
        *("1234567812345670", "4111-1111-1111-1112", "4111 11111111 1111", "9111111111111111"),
    ],
)
def test_kept(text: str) -> None:
    assert replace_personal_data(text, ALL) == text


def test_each_setting_by_itself() -> None:
    text = "a@b.org 8.8.8.8 +49 30 901820 4111111111111111"
    marked = ["<email>", "<ip>", "<phone>", "<card>"]
    for number, mark in enumerate(marked):
        config = PiiConfig(*(index == number for index in range(4)))
        result = replace_personal_data(text, config)
        assert [other in result for other in marked] == [other == mark for other in marked]


@pytest.mark.parametrize("piece", ["+1", "0", "1 ", "a.b", "2001:", "1.", "0123 ", "a@", "a@b."])
def test_time_grows_with_length_alone(piece: str) -> None:
    start = time.process_time()
    replace_personal_data(piece * (60_000 // len(piece)) + "@", ALL)
    assert time.process_time() - start < 2
