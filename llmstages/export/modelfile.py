"""What Ollama needs beside a GGUF file: a `Modelfile` with the template in Ollama's language."""

import json
from collections.abc import Sequence

from llmstages.text.chat import PLAIN_TITLES
from llmstages.text.tokenizer import Tokenizer

CHATML = (
    "{{ range .Messages }}<|im_start|>{{ .Role }}\n"
    "{{ .Content }}<|im_end|>\n"
    "{{ end }}<|im_start|>assistant\n"
)
PLAIN = "".join(
    f'{{{{ if eq .Role "{role}" }}}}### {title}:\n{{{{ .Content }}}}{{{{ end }}}}'
    for role, title in PLAIN_TITLES.items()
)
CONTINUED = "{{ .Prompt }}"
"""Of a model that continues text."""


def modelfile(
    file: str, tokenizer: Tokenizer, stops: Sequence[str], *, context_length: int, speaks: bool
) -> str:
    """The `Modelfile` of a GGUF file beside it.

    stops: texts of the tokens that end an answer. speaks: the model was tuned on conversations;
    any other continues its prompt. Of a foreign template nothing is said: when it reads the GGUF
    file, Ollama compares the one in there with those that it knows in its own language.
    """
    lines = [f"FROM ./{file}"]
    template = ollama_template(tokenizer, speaks=speaks)
    if template is not None:
        lines.append(f'TEMPLATE """{template}"""')
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    lines.append(f"PARAMETER num_ctx {context_length}")
    return "\n".join(lines) + "\n"


def ollama_template(tokenizer: Tokenizer, *, speaks: bool) -> str | None:
    """The chat template in Go's language; None for one of another program."""
    if not speaks:
        return CONTINUED
    if tokenizer.templated_chat is not None:
        return None
    if tokenizer.turn_end_id is not None:
        return CHATML
    end = tokenizer.token_text(tokenizer.end_id)
    turns = PLAIN + f'{{{{ if eq .Role "assistant" }}}}{end}{{{{ end }}}}\n\n'
    return f"{{{{ range .Messages }}}}{turns}{{{{ end }}}}### {PLAIN_TITLES['assistant']}:\n"
