"""What fine-tuning on conversations would learn from a file, shown before it is done."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmstages.data.conversations import Conversation
from llmstages.data.examples import Example, conversation_example, pack
from llmstages.data.order import permutation
from llmstages.data.rows import place
from llmstages.data.supervision import Supervision, supervision_of
from llmstages.errors import UserError
from llmstages.report.conversations import Piece, has_colours, legend, rendered_conversation
from llmstages.report.facts import show_heading
from llmstages.report.terminal import output_console, progress, table
from llmstages.text.chat import answer_end_id, render
from llmstages.text.templates import ConversationRefused
from llmstages.text.tokenizer import Tokenizer
from llmstages.train.checkpoint import resolve_checkpoint

MAX_TOKENS_SHOWN = 400
"""Of a conversation: half from its beginning, half from its end."""
ROWS_SHOWN = 3
EXAMPLES_LISTED = 12


@dataclass(frozen=True)
class Reader:
    """How a base reads conversations."""

    directory: Path
    tokenizer: Tokenizer
    context_length: int


def reader_of(base: str) -> Reader:
    """Tokenizer, template and context of a checkpoint; its weights are not read."""
    directory = resolve_checkpoint(base)
    path = directory / "config.json"
    try:
        length = json.loads(path.read_bytes())["max_position_embeddings"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: no context length in it ({error!r})") from None
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise UserError(f"{path}: max_position_embeddings is no number of tokens")
    return Reader(directory, Tokenizer.load(directory), length)


@dataclass(frozen=True)
class Rendered:
    """Conversations as ids, and why some have none."""

    rows: list[tuple[Conversation, list[int], list[bool]]]
    refused: Counter[str]


def rendered_rows(conversations: Sequence[Conversation], reader: Reader) -> Rendered:
    """The conversations that the base's template renders."""
    rows = []
    refused: Counter[str] = Counter()
    with progress("rendering", total=len(conversations), unit="conversations") as advance:
        for conversation in conversations:
            try:
                rows.append((conversation, *render(conversation.messages, reader.tokenizer)))
            except ConversationRefused as reason:
                refused[str(reason)] += 1
            advance()
    return Rendered(rows, refused)


def supervision_facts(rendered: Rendered, reader: Reader) -> dict[str, object]:
    """Tokens, and what of them is learnt, by name."""
    end_id = answer_end_id(reader.tokenizer)
    found: Supervision = supervision_of(
        ((ids, learnt) for _, ids, learnt in rendered.rows), reader.context_length, end_id
    )
    share = found.supervised_tokens / max(1, found.tokens)
    return {
        "base": str(reader.directory),
        "context, tokens": reader.context_length,
        "refused by the base's template": sum(rendered.refused.values()),
        "tokens": found.tokens,
        "supervised tokens": f"{found.supervised_tokens:,} ({share:.1%})",
        "conversations cut by the context": found.conversations_cut,
        "answers cut": f"{found.answers_cut:,} of {found.answers:,} ({found.cut_share:.1%})",
        "answers end in": reader.tokenizer.token_text(end_id),
        "ends that are learnt": found.ends,
    }


def show_rendered(
    rendered: Rendered, reader: Reader, chosen: Sequence[tuple[str, Conversation]]
) -> None:
    """Print conversations, each after its heading, as the base reads them."""
    console = output_console()
    colours = has_colours(console)
    if chosen:
        console.print(legend(colours=colours))
    ids_of = {id(conversation): (ids, learnt) for conversation, ids, learnt in rendered.rows}
    for heading, conversation in chosen:
        if id(conversation) not in ids_of:
            continue
        ids, learnt = ids_of[id(conversation)]
        show_heading(f"{heading}: {len(ids):,} tokens, as read")
        shown = list(pieces(ids, learnt, reader))
        console.print(rendered_conversation(shown, colours=colours))


def pieces(ids: Sequence[int], learnt: Sequence[bool], reader: Reader) -> Iterator[Piece]:
    """Runs of tokens that are of one kind; the middle of a long conversation is left out."""
    kinds = [
        (wanted, reader.tokenizer.is_control(token), place > reader.context_length)
        for place, (token, wanted) in enumerate(zip(ids, learnt, strict=True))
    ]
    half = MAX_TOKENS_SHOWN // 2
    spans = [(0, len(ids))]
    if len(ids) > MAX_TOKENS_SHOWN:
        spans = [(0, half), (len(ids) - half, len(ids))]
    for number, (begin, end) in enumerate(spans):
        if number:
            yield Piece(f" … {begin - half:,} tokens … ")
        while begin < end:
            wanted, control, cut = kinds[begin]
            stop = begin + 1
            while not control and stop < end and kinds[stop] == kinds[begin]:
                stop += 1
            text = (
                reader.tokenizer.token_text(ids[begin])
                if control
                else reader.tokenizer.decode(ids[begin:stop])
            )
            yield Piece(text, learnt=wanted, control=control, cut=cut)
            begin = stop


def show_packing(rendered: Rendered, reader: Reader) -> None:
    """Print how the first rows of an epoch are put together: which lines, and where they end."""
    from llmstages.stages.shared.objectives import MIN_ROW_TOKENS

    made = [
        conversation_example(ids, learnt, reader.context_length, place(conversation.line))
        for conversation, ids, learnt in rendered.rows
    ]
    examples: list[Example] = [example for example in made if example is not None]
    if not examples:
        return
    longest = max(len(example.tokens) for example in examples)
    length = min(reader.context_length, max(longest, MIN_ROW_TOKENS))
    order = permutation(len(examples), "examples", 0, 0)
    packed = pack([examples[index] for index in order], length)
    rows = []
    for number, row in enumerate(packed[:ROWS_SHOWN], 1):
        end = 0
        bounds = []
        for example in row[:EXAMPLES_LISTED]:
            begin, end = end, end + len(example.tokens)
            bounds.append(f"{example.reference} [{begin}:{end}]")
        if len(row) > EXAMPLES_LISTED:
            bounds.append(f"{len(row) - EXAMPLES_LISTED} more")
        filled = sum(len(example.tokens) for example in row)
        rows.append((number, filled, length - filled, " | ".join(bounds)))
    table(
        f"the first of {len(packed):,} packed rows of {length:,} tokens, if all were for training",
        ("row", "tokens", "padding", "lines and where they stand"),
        rows,
        to_output=True,
    )
