"""robots.txt, after RFC 9309: what a site asks of programs.

The groups for our name count, or, when there is none, those for `*`; several groups for one name
are one. Of the rules that match a path the longest wins, and `Allow` wins over an equally long
`Disallow`. `*` stands for anything, `$` for the end. `Crawl-delay` is no part of the standard but
widely used: the longest one of our groups counts. Python's `urllib.robotparser` knows neither
wildcards nor the longest rule, and takes only the first group.
"""

import re
from dataclasses import dataclass, field

from llmstages.collect.fetch.urls import escaped, page_key

MAX_BYTES = 512 * 1024
"""Read of a robots.txt; RFC 9309, section 2.5, asks for at least 500 KiB."""

_RULE = re.compile(r"\s*([A-Za-z-]+)\s*:\s*([^#]*)")
_SAFE = "/?:@!$&'()*+,;="


@dataclass
class Rules:
    """What one site allows us."""

    patterns: list[tuple[str, bool]] = field(default_factory=list)
    """Pattern and whether it allows."""
    delay_seconds: float = 0.0
    """Least time between two requests that the site asks for."""

    def allow(self, url: str) -> bool:
        """Whether a normalised URL may be fetched."""
        path = page_key(url)
        path = path[path.index("/") :]
        # The longest pattern; of equally long ones the one that allows.
        best = max(
            (
                (len(pattern), allows)
                for pattern, allows in self.patterns
                if _matches(pattern, path)
            ),
            default=(0, True),
        )
        return best[1]


def product_token(user_agent: str) -> str:
    """The name that robots.txt files know a program by: "llmstages" of "llmstages/1.0 (...)"."""
    found = re.match(r"[A-Za-z_-]+", user_agent)
    return found[0].lower() if found else ""


def parse_robots(data: bytes, user_agent: str) -> Rules:
    """The rules for `user_agent`; lines that are not understood are passed over."""
    ours = product_token(user_agent)
    groups: dict[str, Rules] = {}
    current: set[str] = set()
    in_rules = False
    text = data.decode("utf-8", errors="replace").removeprefix("\ufeff")
    for line in re.split(r"\r\n|\r|\n", text):
        found = _RULE.match(line)
        if found is None:
            continue
        key, value = found[1].lower(), found[2].strip()
        if key == "user-agent":
            # A name after rules begins a new group, a name after a name joins it.
            if in_rules:
                current, in_rules = set(), False
            name = "*" if value == "*" else product_token(value)
            if name in ("*", ours):
                current.add(name)
                groups.setdefault(name, Rules())
        elif key in ("allow", "disallow"):
            in_rules = True
            if value:
                for name in current:
                    groups[name].patterns.append((escaped(value, _SAFE), key == "allow"))
        elif key == "crawl-delay":
            seconds = _seconds(value)
            for name in current:
                groups[name].delay_seconds = max(groups[name].delay_seconds, seconds)
    return groups.get(ours) or groups.get("*") or Rules()


def _seconds(value: str) -> float:
    return float(value) if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value) else 0.0


def _matches(pattern: str, path: str) -> bool:
    """Whether `pattern` matches the start of `path`, in time that no pattern can blow up."""
    to_end = pattern.endswith("$")
    first, *pieces = pattern.removesuffix("$").split("*")
    if not path.startswith(first):
        return False
    position = len(first)
    if not pieces:
        return not to_end or position == len(path)
    *middle, last = pieces
    for piece in middle:  # each as far left as it goes leaves most room for the next
        found = path.find(piece, position)
        if found < 0:
            return False
        position = found + len(piece)
    if to_end:
        return len(path) - len(last) >= position and path.endswith(last)
    return path.find(last, position) >= 0
