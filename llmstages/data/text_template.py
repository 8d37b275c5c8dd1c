"""Which columns a row's text is in, and how several are joined for the model.

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
    """The column of the text, or columns of texts and the text that they make together."""

    columns: tuple[str, ...]
    template: str
    """With the name of each column in braces."""

    @classmethod
    def of(cls, columns: Sequence[str], template: str | None = None) -> "TextTemplate":
        """A template of columns, which may be given. `UserError` when it leaves a column out."""
        joined = "\n".join(f"{name}: {{{name}}}" for name in columns)
        if len(columns) == 1:
            joined = f"{{{columns[0]}}}"
        found = cls(tuple(columns), joined if template is None else template)
        for name in columns:
            if f"{{{name}}}" not in found.template:
                raise UserError(f"text_template={found.template!r} has no place for {{{name}}}")
        return found

    @classmethod
    def from_record(cls, classifier: Mapping[str, Any] | None) -> "TextTemplate | None":
        """The template in the section `classifier` of `llmstages.json`, if there is one.

        Raises:
            UserError: the section holds something else there.
        """
        columns = (classifier or {}).get("text_columns")
        template = (classifier or {}).get("text_template")
        if not columns and template is None:
            return None
        if not (
            isinstance(columns, list)
            and columns
            and all(isinstance(name, str) for name in columns)
            and (template is None or isinstance(template, str))
        ):
            raise UserError(
                f"llmstages.json: text_columns={columns!r} and text_template={template!r} of the "
                "classifier are no names of columns and no text that joins them"
            )
        return cls.of(columns, template)

    @property
    def joins(self) -> bool:
        """Whether there are several columns. A single one is taken where a file has it, and else
        the column is found by its name."""
        return len(self.columns) > 1

    def as_record(self) -> dict[str, Any]:
        """What `from_record` reads."""
        record: dict[str, Any] = {"text_columns": list(self.columns)}
        return record | ({"text_template": self.template} if self.joins else {})

    def fill(self, texts: Sequence[str]) -> str:
        """The text of one row; texts: of each column. Braces in texts are left alone."""
        by_name = dict(zip(self.columns, texts, strict=True))
        names = "|".join(map(re.escape, self.columns))
        return re.sub(rf"\{{({names})\}}", lambda found: by_name[found[1]], self.template)
