"""`python -m llmstages`: the same as the command `llmstages`."""

from llmstages.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
