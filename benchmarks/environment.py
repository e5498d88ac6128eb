"""How a benchmark runs: imported before any numerical library, as these look at the environment once.

Threads wait for one another as they do in the programs (`PATIENCE` in unbatch/cli/common.py), and the package in bin/
can be imported.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bin"))

from unbatch.cli.common import limit_threads_early  # noqa: E402

limit_threads_early()
