"""What of rendered conversations is learnt within a context, and whether that is enough.

A model that has never seen an answer end does not end its own. So whoever trains on conversations
counts here, before the first step, how many answers lose their end to the context.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from llmstages.errors import UserError


@dataclass
class Supervision:
    """Counts over conversations, each cut to the context."""

    conversations: int = 0
    conversations_cut: int = 0
    """Longer than the context; what remains is learnt."""
    tokens: int = 0
    """Left within the context."""
    supervised_tokens: int = 0
    answers: int = 0
    answers_cut: int = 0
    """Answers that lose their end, or all they are."""
    ends: int = 0
    """Targets that end an answer."""

    @property
    def cut_share(self) -> float:
        """Share of the answers that is cut."""
        return self.answers_cut / max(1, self.answers)


def supervision_of(
    rendered: Iterable[tuple[Sequence[int], Sequence[bool]]], context_length: int, end_id: int
) -> Supervision:
    """Count over pairs of ids and whether each is learnt; `end_id` ends an answer."""
    found = Supervision()
    for ids, learnt in rendered:
        # The last id is predicted and not read, so that one more than the context has a use.
        within = context_length + 1
        found.conversations += 1
        found.conversations_cut += len(ids) > within
        found.tokens += min(len(ids), within) - 1
        targets = [ids[place] for place in range(1, min(len(ids), within)) if learnt[place]]
        found.supervised_tokens += len(targets)
        found.ends += targets.count(end_id)
        place = 0
        for wanted, run in groupby(learnt):
            place += len(list(run))
            found.answers += wanted
            found.answers_cut += wanted and place > within
    return found


def refuse_cut_answers(
    found: Supervision, max_cut_share: float, context_length: int, where: str
) -> None:
    """Raise `UserError` when no answer keeps its end, or too many lose it."""
    if found.answers and not found.ends:
        why = (
            f"all {found.answers:,} answers are cut by the context of {context_length:,} tokens"
            if found.answers_cut == found.answers
            else "the base's chat template ends no answer with its end token"
        )
        raise UserError(
            f"{where}: {why}, so the model would never learn to end one: take a base with a longer "
            "context (base=...), or shorter rows"
        )
    if found.cut_share > max_cut_share:
        raise UserError(
            f"{where}: {found.answers_cut:,} of {found.answers:,} answers ({found.cut_share:.0%}) "
            f"are cut by the context of {context_length:,} tokens, more than "
            f"max_cut_share={max_cut_share:g}: take a base with a longer context (base=...) or "
            "shorter rows, or allow it with a larger max_cut_share=..."
        )
