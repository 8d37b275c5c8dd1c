"""Names by which the columns of tables are known."""

import re

# Names by which the columns of labelled files are known, likeliest first. A first row that holds
# one of them is a header.
TEXT_NAMES = (
    *("text", "sentence", "sms", "message", "content", "review", "query", "utterance", "tweet"),
    *("document", "body", "comment", "comments", "post", "review_text", "review_body", "title"),
    *("headline", "description", "question", "prompt", "input", "sentences", "phrase", "v2"),
)
LABEL_NAMES = (
    *("label", "labels", "category", "class", "intent", "sentiment", "target", "airline_sentiment"),
    *("emotion", "topic", "polarity", "tag", "stars", "rating", "spam", "is_spam", "toxic"),
    *("label_text", "category_name", "y", "v1"),
)
PROMPT_NAMES = ("instruction", "prompt", "question", "query", "q", "input")
ANSWER_NAMES = ("output", "completion", "response", "answer", "a")
INPUT_NAMES = ("input", "context")
SYSTEM_NAMES = ("system", "system_prompt")
MESSAGES_NAMES = ("messages", "conversations", "conversation", "dialog", "dialogue")
CHOSEN_NAMES = ("chosen", "chosen_response", "preferred")
REJECTED_NAMES = ("rejected", "rejected_response", "dispreferred")
OTHER_NAMES = ("id", "idx", "index", "url", "source", "language", "lang", "date", "author", "name")
HEADER_NAMES = frozenset(
    TEXT_NAMES + LABEL_NAMES + PROMPT_NAMES + ANSWER_NAMES + INPUT_NAMES + SYSTEM_NAMES
) | frozenset(MESSAGES_NAMES + CHOSEN_NAMES + REJECTED_NAMES + OTHER_NAMES)


def column_key(name: str) -> str:
    """A column's name as it is compared: case, spaces and hyphens folded."""
    return re.sub(r"[\s\-]+", "_", name.strip().casefold())
