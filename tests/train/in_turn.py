"""Command lines one after the other in one process, whose start costs seconds: in_turn.py FILE.

Several processes stay together until the last is done, as in a sweep.
"""

import json
import sys
from pathlib import Path

from llmstages.cli import main
from llmstages.train import parallel

part = parallel.leave
parallel.leave = lambda together: None  # type: ignore[assignment]
status = 0
for words in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
    status = status or main(words)
part(together=status == 0)
sys.exit(status)
