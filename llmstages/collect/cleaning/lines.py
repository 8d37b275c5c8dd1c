"""Lines that are taken out of a document: the line rules of C4 (Raffel et al. 2020, section 2.2).

A line goes when it has too few words or too long a word, does not end like a sentence, names
JavaScript, or is about terms of use, privacy and cookies. Wikipedia's marks of citations go from
the lines that stay. Blank lines go too where lines need a least number of words.
"""

import re

from llmstages.config.collect_groups import QualityConfig

TERMINAL_PUNCTUATION = (".", "?", "!", '"', "'", "”", "’")
POLICY_PHRASES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")


def cleans_lines(config: QualityConfig) -> bool:
    """Whether any setting takes something out of lines."""
    return (
        config.min_words_per_line is not None
        or config.max_line_word_length is not None
        or config.drop_lines_without_terminal_punctuation
        or config.drop_javascript_lines
        or config.drop_policy_lines
        or config.remove_citations
    )


def clean_lines(text: str, config: QualityConfig) -> str:
    """The text without the lines that the config takes out, and without space around lines."""
    if not cleans_lines(config):
        return text
    lines = (_clean_line(line.strip(), config) for line in text.splitlines())
    return "\n".join(line for line in lines if line is not None).strip()


def _clean_line(line: str, config: QualityConfig) -> str | None:
    """The line as it stays, or None."""
    words = line.split()
    longest = config.max_line_word_length
    if longest is not None and len(line) > longest and max(map(len, words)) > longest:
        return None
    if config.min_words_per_line is not None and len(words) < config.min_words_per_line:
        return None
    if config.remove_citations and "[" in line:
        line = _CITATION.sub("", line)
    if config.drop_lines_without_terminal_punctuation and (
        not line.endswith(TERMINAL_PUNCTUATION) or line.endswith("...")
    ):
        return None
    lower = line.lower()
    if config.drop_javascript_lines and "javascript" in lower:
        return None
    if config.drop_policy_lines and any(phrase in lower for phrase in POLICY_PHRASES):
        return None
    return line
