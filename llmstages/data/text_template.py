"""The text of a row with several texts: how its columns are joined for the model.

The template is kept with the model, so that texts are joined alike whenever they are read. By
default each is on a line, after the name of its column (as in T5; Raffel et al. 2020, appendix D).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmstages.errors import UserError


@dataclass(frozen=True)
class TextTemplate:
    """Columns that hold texts, and the text that they make together."""

    columns: tuple[str, ...]
    template: str
    """With the name of each column in braces."""

    @classmethod
    def of(cls, columns: Sequence[str], template: str | None = None) -> "TextTemplate":
        """A template of columns, which may be given. `UserError` when it leaves a column out."""
        joined = "\n".join(f"{name}: {{{name}}}" for name in columns)
        found = cls(tuple(columns), joined if template is None else template)
        for name in columns:
            if f"{{{name}}}" not in found.template:
                raise UserError(f"text_template={found.template!r} has no place for {{{name}}}")
        return found

    @classmethod
    def from_record(cls, classifier: Mapping[str, Any] | None) -> "TextTemplate | None":
        """The template in the section `classifier` of `llmstages.json`, if there is one."""
        if not classifier or not classifier.get("text_columns"):
            return None
        return cls.of(classifier["text_columns"], classifier.get("text_template"))

    def as_record(self) -> dict[str, Any]:
        """What `from_record` reads."""
        return {"text_columns": list(self.columns), "text_template": self.template}

    def fill(self, texts: Sequence[str]) -> str:
        """The text of one row; texts: of each column. Braces in texts are left alone."""
        by_name = dict(zip(self.columns, texts, strict=True))
        names = "|".join(map(re.escape, self.columns))
        return re.sub(rf"\{{({names})\}}", lambda found: by_name[found[1]], self.template)
