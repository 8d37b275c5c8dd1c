"""The command: what it refuses, and how it ends."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from urllib.request import Request, urlopen

import pytest

from llmstages.serve.http import is_local
from llmstages.serve.protocol import Until


def test_mistakes_are_one_line(cli, tiny_run, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, _, err = cli("serve", tiny_run, f"port={port}")
    assert (status, f"port={port}: Address already in use" in err) == (2, True)
    status, _, err = cli("serve", tiny_run, "port=0", "api_key_env=sk-secret")
    assert (status, "not the key itself" in err, "secret" in err) == (2, True, False)
    status, _, err = cli("serve", tiny_run, "port=0", "api_key_env=NO_SUCH_KEY")
    assert (status, "is not set" in err, "NO_SUCH" in err) == (2, True, False)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find_spec(name)
    )
    status, _, err = cli("serve", tiny_run)
    assert (status, "serve needs uvicorn" in err, "llmstages[serve]" in err) == (2, True, True)


def test_a_signal_ends_it_with_the_answer_under_way_finished(instruct_run):
    command = [sys.executable, "-m", "llmstages", "serve", str(instruct_run), "port=0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ) as process:
        line = process.stderr.readline()
        url = next(word for word in line.split() if word.startswith("http://"))
        body = {"prompt": "The", "stream": True, "max_tokens": 60, "temperature": 0}
        asked = Request(
            f"{url}/v1/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urlopen(asked, timeout=20) as response:
            response.readline()
            process.send_signal(signal.SIGTERM)
            assert response.read().endswith(b"data: [DONE]\n\n")
        rest = process.stderr.read()
        assert process.wait(10) == 0
    assert "POST /v1/completions 200" in rest
    assert rest.endswith("ended\n")


def test_names_of_this_machine():
    local = ["localhost", "localhost:80", "127.0.0.1", "127.0.0.2:8000", "[::1]", "[::1]:8000"]
    assert all(map(is_local, local))
    other = ["", "evil.example", "localhost.evil.example", "0.0.0.0", "[::]", "192.168.1.2", "[x"]
    assert not any(map(is_local, other))


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_text_is_cut_where_a_string_begins_however_it_comes(size):
    def cut(text, *stops):
        until = Until(list(stops))
        parts = [until.add(text[at : at + size]) for at in range(0, len(text), size)]
        return "".join([*parts, until.end()]), until.stopped

    assert cut("one aab two", "ab") == ("one a", True)
    assert cut("one a", "ab", "none at all") == ("one a", False)
    assert cut("a\n\nUser: b", "\nUser:") == ("a\n", True)
    assert cut("abc", "abc") == ("", True)
