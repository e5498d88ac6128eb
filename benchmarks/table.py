#!/usr/bin/env python3
"""Record a score table of the pipeline: a row for each method, seed and score.

python benchmarks/table.py BENCHMARK DATASET SCORES.json
"""

import environment  # noqa: F401

# isort: split
import json
import sys
from pathlib import Path

from record import record

benchmark, dataset, scores = sys.argv[1:]
table = json.loads(Path(scores).read_text(encoding="utf-8"))
failed = 0
for row in table["rows"]:
    if row["status"] != "ok":
        print(f"{row['id']}: {row['status']}: {row['message']}", file=sys.stderr)
        failed += 1
        continue
    values = {**row, **row["metrics"]}
    names = dict.fromkeys([*row["metrics"], "batch", "bio", "total", "wall_s", "peak_mb"])
    found = {name: values[name] for name in names if values.get(name) is not None}
    record(benchmark, dataset, row["method"], found, seed=row["seed"])
sys.exit(failed > 0)
