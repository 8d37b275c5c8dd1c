"""A model of llama2.c tells the story that its own program tells."""

import os
from pathlib import Path

import pytest


@pytest.mark.skipif("LLMSTAGES_DATA" not in os.environ, reason="LLMSTAGES_DATA names no real data")
def test_its_story(cli, tmp_path, capfd):
    import import_llama2c

    data = Path(os.environ["LLMSTAGES_DATA"]) / "weights/stories260K"
    paths = [data / "stories260K.bin", data / "tok512.bin", tmp_path / "stories"]
    import_llama2c.main(*map(str, paths))
    assert "stories: 260,032 parameters, vocabulary of 512 tokens" in capfd.readouterr().out
    words = ("generate", "stories", "Once upon a time", "temperature=0", "max_new_tokens=80")
    status, told, _ = cli(*words)
    assert status == 0
    # As tests of llama2.c have it.
    assert told.startswith(
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the "
        "park. One day, she saw a big, red ball. She wanted to play with it, but it was too high."
    )
