"""Raw sources -> clean documents, on Daft. Never imports torch.

Daft reads its switches when it is imported, so they are set here, before any module of this room
can import it: no usage reports to its makers, and no progress bars beside ours.
"""

import os

os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")
os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
