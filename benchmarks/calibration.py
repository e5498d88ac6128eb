"""What methods do to one batch that is called two; results/calibration.csv.

    python benchmarks/calibration.py OUT [--dlpfc SECTION.h5ad] [--methods A,B] [--cells 800] [--minutes 60]

Without --dlpfc a donor of the preset donors is simulated (CELLS cells, 200 genes); with it, CELLS labelled spots of
that section are drawn. Both are split by `halve`, and every method is fitted to all three splits with its defaults and
the seeds 0, 1 and 2, in this process. What `calibrate` computes of a method is recorded as soon as its fits have ended;
methods that do not fit within MINUTES are left out. OUT keeps the datasets.
"""

import environment

# isort: split
import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anndata
import numpy as np
from record import record

from unbatch import calibration, contract, methods, scoring
from unbatch.data.cells import cells_of
from unbatch.data.halves import SPLITS
from unbatch.errors import UnbatchError
from unbatch.metrics.calibration import excluding_one

ROOT = environment.ROOT
SEEDS = (0, 1, 2)
METHODS = [
    *("none", "pca", "combat", "leace", "harmony", "scanorama", "mnn", "bbknn", "batchblend", "scmedal"),
    *("scvi", "liger", "saucie", "popari", "staligner"),
]
ASKED = {"batchblend": {"corrected": True}, "combat": {"corrected": True}}


def program(name: str, *arguments: object) -> None:
    subprocess.run([sys.executable, "-W", "ignore", ROOT / "bin" / name, *map(str, arguments), "--quiet"], check=True)


def datasets(given: argparse.Namespace) -> tuple[str, dict[str, anndata.AnnData]]:
    """Name of the data, and the dataset of every split."""
    given.out.mkdir(parents=True, exist_ok=True)
    raw, data = given.out / "raw.h5ad", given.out / "data.h5ad"
    if given.dlpfc:
        section = anndata.read_h5ad(given.dlpfc)
        known = section.obs["layer"].notna() & (section.obs["layer"].astype(str) != "NA")
        section[known.to_numpy()].write_h5ad(raw)
        label, name = "layer", f"DLPFC {given.dlpfc.stem}, {given.cells} spots"
    else:
        program("simulate", "--preset", "donors", "--batches", 4, "--cells", given.cells, "-o", raw)
        label, name = "cell_type", f"donors preset, {given.cells} cells x 200 genes"
    one = "sample" if not given.dlpfc else "one_batch"
    if given.dlpfc:
        section = anndata.read_h5ad(raw)
        section.obs[one] = given.dlpfc.stem
        section.write_h5ad(raw)
    program("preprocess", raw, "--batch-key", one, "--label-key", label, "--n-top-genes", 1000, "-o", data)
    program("halve", data, "--max-cells", given.cells, "-o", given.out)
    return name, {split: anndata.read_h5ad(given.out / f"data.null.{split}.h5ad") for split in SPLITS}


def fit(method: str, adata: anndata.AnnData, seed: int) -> calibration.Fitted:
    """Fit a method, and take what is compared."""
    declared = methods.load(method)
    params = contract.checked(method, declared.params, ASKED.get(method, {}))
    cells = cells_of(adata)
    found = declared.fit(cells, params, contract.Run(seed))
    if found.graph is None:
        near = calibration.neighbours(found.embedding)
    else:
        made = {"method": method, "output": "graph"}
        near = scoring.Fitted.of(made, {}, {method: found.graph}, np.arange(len(cells))).near
    effect = found.slots.get("uns/batch_effect")
    factors = None if effect is None else excluding_one(effect["factor"], effect["log_factor_se"])
    for name, blocks in found.layers.items():
        slot = f"layers/{name}"
        values = np.concatenate(list(blocks))
        size = adata.obs["size_factor"].to_numpy()
        expression = calibration.logarithms(values, calibration.EXPRESSION[slot], size)
        return calibration.Fitted(near, expression, tuple(cells.genes), slot, factors)
    return calibration.Fitted(near, factors=factors)


def values_of(row: dict[str, Any]) -> dict[str, float]:
    found = {}
    for split, each in row["splits"].items():
        found |= {f"lost {split}": each["lost"]["mean"], f"noise {split}": each["noise"]["mean"]}
        found |= {f"excess {split}": each["excess"]["mean"], f"beyond {split}": int(each["beyond"])}
        half = (each["excess"]["high"] or np.nan) - each["excess"]["mean"]
        found[f"half width of excess {split}"] = half
        if row["genes"]:
            found |= {f"genes {split}": row["genes"][split]["called"]}
            found |= {f"genes uncorrected {split}": row["genes"][split]["uncorrected"]}
        if row["factors"]:
            found |= {f"factors {split}": row["factors"][split]}
    for name in ("mixing", "own_kind"):
        found |= {f"{name} {when}": row[name][when] for when in ("before", "after")}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dlpfc", type=Path, help="a section; without it, a donor is simulated")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=METHODS)
    parser.add_argument("--cells", type=int, default=800)
    parser.add_argument("--minutes", type=float, default=60.0)
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes
    name, splits = datasets(given)
    for method in given.methods:
        fits: dict[str, calibration.Fitted] = {}
        planned, start = [], time.process_time()
        try:
            for split in SPLITS:
                for seed in SEEDS:
                    if time.monotonic() > end:
                        raise TimeoutError(f"{given.minutes:g} minutes are over")
                    key = f"{split}.{seed}"
                    fits[key] = fit(method, splits[split], seed)
                    planned.append({"split": split, "method": method, "seed": seed, "fit": key})
        except (UnbatchError, TimeoutError) as error:
            print(f"{method}: {error}", flush=True)
            continue
        took = (time.process_time() - start) / len(planned)
        found = calibration.table(splits, planned, lambda key, _data, _wanted, fits=fits: fits[key], name=name)
        row = found["rows"][0]
        print(json.dumps(row), flush=True)
        record("calibration", name, method, values_of(row) | {"cpu_s": took}, seed="0-2")


if __name__ == "__main__":
    main()
