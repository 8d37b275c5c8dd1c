"""Memory does not grow with the input: 100 MB of documents within 1 GB, workers included.

They take 0.8 GB, and twice as much takes 0.1 GB more. Held whole, as Python holds text, it would be
several times its size.
"""

import json
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_collect.py"
INPUT_BYTES = 100_000_000
CAP_BYTES = 1_000_000_000


@pytest.mark.slow
def test_a_large_input_is_collected_in_bounded_memory(tmp_path: Path) -> None:
    output, texts = tmp_path / "result.json", tmp_path / "texts.txt"
    texts.write_text("\n".join(topics.values()), encoding="utf-8")
    subprocess.run(
        [
            *(sys.executable, str(SCRIPT), str(texts), "--generate", str(INPUT_BYTES)),
            *("--cap", str(CAP_BYTES), "--output", str(output), "--folder", str(tmp_path)),
            "quality=default",  # these are no web pages
        ],
        check=True,
        timeout=400,
    )
    result = json.loads(output.read_text())
    assert result["bytes"] >= INPUT_BYTES
    assert 0 < result["peak_memory_bytes"] < CAP_BYTES
    assert result["dropped"]["near_duplicate"] > 100
    assert result["dropped"]["duplicate"] > 100
