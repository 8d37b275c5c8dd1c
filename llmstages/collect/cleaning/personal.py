"""Personal data: e-mail and IP addresses, telephone and payment card numbers become marks.

Numbers that only resemble them (years, dates, versions, prices, ISBNs, ids) stay. So a card number
needs a known prefix, a usual grouping and a valid check digit (Luhn 1960), and a telephone number a
plus sign or separators, and a range that is in use, as the library phonenumbers knows them.
Addresses that no one has (private, reserved, for documentation) stay too.
"""

import ipaddress
import re
from collections.abc import Callable

from llmstages.config.collect_groups import PiiConfig

EMAIL_MARK = "<email>"
IP_MARK = "<ip>"
PHONE_MARK = "<phone>"
CARD_MARK = "<card>"

# A look behind comes after the first character, not before it: so the search jumps from one
# possible first character to the next, ten times as fast.
_DIGIT = re.compile(r"[0-9]")
_EMAIL = re.compile(r"(?<![\w.+%-])\w[\w.+%-]*@[^\W_][\w-]*(?:\.[^\W_][\w-]*)*\.[^\W\d_]{2,}")
_IP = re.compile(r"[0-9](?<![\w.][0-9])[0-9]{0,2}(?:\.[0-9]{1,3}){3}(?![\w]|\.[0-9])")
_IP6 = re.compile(r"[23](?<![\w:.][23])[0-9a-fA-F]{3}:[0-9a-fA-F:]*[0-9a-fA-F](?!\w)")
_CARD = re.compile(
    r"[2-6](?<![\w.,+-][2-6])(?:"
    r"[0-9]{3}([ -]?)[0-9]{4}\1[0-9]{4}\1[0-9]{1,4}(?:\1[0-9]{1,3})?"
    r"|[0-9]{3}([ -]?)[0-9]{6}\2[0-9]{4,5})(?![\w-])"
)
_PHONE = re.compile(
    r"[+(0-9](?<![\w.,:/+(-][+(0-9])(?:"
    r"(?<=\+)[0-9][0-9 ().-]{6,20}[0-9]"  # +49 (0)30 1234567
    r"|(?<=0)0[ .-]?[1-9][0-9 ().-]{6,20}[0-9]"  # 0049 30 1234567
    r"|(?<=1)[ .-]\(?[2-9][0-9]{2}\)?[ .-][2-9][0-9]{2}[ .-][0-9]{4}"  # 1-800-555-0199
    r"|(?<=[2-9])[0-9]{2}([ .-])[2-9][0-9]{2}\1[0-9]{4}"  # 212-555-0199
    r"|(?<=\()[2-9][0-9]{2}\)[ .-]?[2-9][0-9]{2}[ .-][0-9]{4}"  # (212) 555-0199
    r"|(?<=\()0[1-9][0-9]{0,3}\)[ ]?[0-9]{2,8}(?:[ .-][0-9]{2,8}){0,3}"  # (030) 1234567
    r"|(?<=0)[1-9][0-9]{0,3}(?:[ .-]|[ ]?/[ ]?)[0-9]{2,8}(?:[ .-][0-9]{2,8}){0,4}"  # 030 1234567
    r")(?![\w]|[.,:/-][0-9])"
)
_NOT_DIGIT = re.compile(r"[^0-9]")
_NUMBERED = re.compile(r"(?:\bv|version|release|section|chapter|build|revision|§)[ .:-]*$", re.I)
"""Before four numbers that are no address."""

CARD_RANGES = (
    # Prefixes from, to, and lengths of the number (ISO/IEC 7812; as the card schemes publish them).
    (4, 4, (13, 16, 19)),  # Visa
    (51, 55, (16,)),  # Mastercard
    (2221, 2720, (16,)),
    (34, 34, (15,)),  # American Express
    (37, 37, (15,)),
    (300, 305, (14,)),  # Diners Club
    (36, 36, (14,)),
    (38, 39, (14,)),
    (6011, 6011, (16, 19)),  # Discover
    (644, 659, (16, 19)),
    (3528, 3589, (16, 19)),  # JCB
    (62, 62, (16, 17, 18, 19)),  # UnionPay
)
TRUNK_ZERO_REGIONS = ("GB", "DE", "FR", "KR", "JP", "AU", "NL", "BE", "CH", "AT", "SE", "IN", "BG")
"""Where national numbers start with a zero: a number of any of these counts."""
MIN_NATIONAL_DIGITS = 9
"""Of a number with a leading zero: fewer could be a date."""
MAX_NATIONAL_DIGITS = 12


def replace_personal_data(text: str, config: PiiConfig) -> str:
    """The text with what the config names replaced."""
    if config.replace_emails and "@" in text:
        text = _EMAIL.sub(EMAIL_MARK, text)
    if not _DIGIT.search(text):
        return text
    if config.replace_ips:
        text = _replace(_IP, IP_MARK, _is_public_ip, text)
        if ":" in text:
            text = _replace(_IP6, IP_MARK, _is_public_ip6, text)
    if config.replace_cards:
        text = _replace(_CARD, CARD_MARK, _is_card, text)
    if config.replace_phones:
        text = _replace(_PHONE, PHONE_MARK, _is_phone, text)
    return text


def _replace(
    pattern: re.Pattern[str], mark: str, accepts: Callable[[re.Match[str]], bool], text: str
) -> str:
    return pattern.sub(lambda match: mark if accepts(match) else match.group(), text)


def _is_public_ip(match: re.Match[str]) -> bool:
    try:
        address = ipaddress.IPv4Address(match.group())
    except ValueError:
        return False  # 999.1.1.1, or a version such as 1.02.03.04
    before = match.string[max(0, match.start() - 12) : match.start()]
    return address.is_global and not address.is_multicast and not _NUMBERED.search(before)


def _is_public_ip6(match: re.Match[str]) -> bool:
    try:
        return ipaddress.IPv6Address(match.group()).is_global
    except ValueError:
        return False


def _is_card(match: re.Match[str]) -> bool:
    digits = _NOT_DIGIT.sub("", match.group())
    return _luhn(digits) and any(
        len(digits) in lengths and low <= int(digits[: len(str(low))]) <= high
        for low, high, lengths in CARD_RANGES
    )


def _luhn(digits: str) -> bool:
    """Whether the last digit checks the others."""
    doubled = [sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2]]
    return (sum(doubled) + sum(map(int, digits[-1::-2]))) % 10 == 0


def _is_phone(match: re.Match[str]) -> bool:
    written = match.group()
    digits = _NOT_DIGIT.sub("", written)
    if written.startswith("+"):
        return _is_assigned(written, None)
    if digits.startswith("00"):
        return digits != written and _is_assigned("+" + digits[2:], None)
    if digits.startswith("0"):
        return MIN_NATIONAL_DIGITS <= len(digits) <= MAX_NATIONAL_DIGITS and any(
            _is_assigned(digits, region) for region in TRUNK_ZERO_REGIONS
        )
    return _is_assigned(digits, "US")


def _is_assigned(number: str, region: str | None) -> bool:
    """Whether the number lies in a range in use; `region` is where it would be dialled."""
    import phonenumbers

    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(number, region))
    except phonenumbers.NumberParseException:
        return False
