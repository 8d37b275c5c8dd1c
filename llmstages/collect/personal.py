"""Personal data: e-mail addresses and public IPv4 addresses are replaced by a mark."""

import ipaddress
import re

from llmstages.config.groups import PiiConfig

EMAIL_MARK = "<email>"
IP_MARK = "<ip>"

_EMAIL = re.compile(
    r"(?<![\w.+-])[A-Za-z0-9][\w.+-]*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}"
)
_IP = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.]*\d)")


def replace_personal_data(text: str, config: PiiConfig) -> str:
    """The text with what the config names replaced; private and reserved addresses stay."""
    if config.replace_emails and "@" in text:
        text = _EMAIL.sub(EMAIL_MARK, text)
    if config.replace_ips:
        text = _IP.sub(_ip_mark, text)
    return text


def _ip_mark(match: re.Match[str]) -> str:
    try:
        public = ipaddress.IPv4Address(match.group()).is_global
    except ValueError:
        public = False  # 999.1.1.1, or a version such as 1.02.03.04
    return IP_MARK if public else match.group()
