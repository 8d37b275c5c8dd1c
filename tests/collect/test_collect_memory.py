"""Memory does not grow with the input: 200 MB of documents within 1.2 GB, workers included."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_collect.py"
INPUT_BYTES = 200_000_000
CAP_BYTES = 1_200_000_000


def test_a_large_input_is_collected_in_bounded_memory(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    subprocess.run(
        [
            *(sys.executable, str(SCRIPT), "--generate", str(INPUT_BYTES)),
            *("--cap", str(CAP_BYTES), "--output", str(output), "--folder", str(tmp_path)),
            "quality=default",  # Python's documentation is no web page
        ],
        check=True,
        timeout=400,
    )
    result = json.loads(output.read_text())
    assert result["bytes"] >= INPUT_BYTES
    assert 0 < result["peak_memory_bytes"] < CAP_BYTES
    assert result["dropped"]["near_duplicate"] > 100
    assert result["dropped"]["duplicate"] > 100
