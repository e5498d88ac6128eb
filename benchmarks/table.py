#!/usr/bin/env python3
"""Print a score table as Markdown: one row per method, means over seeds. Usage: table.py SCORES.json."""

import json
import sys
from pathlib import Path

import pandas as pd

table = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
kinds = table["metrics"]
rows = pd.DataFrame([{**row, **row["metrics"]} for row in table["rows"] if row["status"] == "ok"])
columns = [*kinds["batch"], *kinds["bio"], "silhouette_batch", "batch", "bio", "total", "wall_s", "peak_mb"]
mean = rows.groupby("method")[columns].mean().sort_values("total", ascending=False)
spread = rows.groupby("method")["total"].agg(lambda x: x.max() - x.min())
print("| " + " | ".join(["method", *columns, "range of total"]) + " |")
print("|" + "---|" * (len(columns) + 2))
for method, values in mean.iterrows():
    cells = [f"{v:.0f}" if c == "peak_mb" else f"{v:.1f}" if c == "wall_s" else f"{v:.3f}" for c, v in values.items()]
    print("| " + " | ".join([str(method), *cells, f"{spread[method]:.4f}"]) + " |")
for row in table["rows"]:
    if row["status"] != "ok":
        print(f"{row['id']}: {row['status']}: {row['message']}")
