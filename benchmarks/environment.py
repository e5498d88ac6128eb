"""How a benchmark runs: imported before any numerical library, as these look at the environment once.

Threads wait for one another as they do in the programs (`PATIENCE` in unbatch/cli/common.py), the package in bin/ is
found, and the commit that rows are recorded with is the one that was checked out at the start.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bin"))

import record  # noqa: E402

from unbatch.cli.common import limit_threads_early  # noqa: E402

limit_threads_early()
record.commit()
