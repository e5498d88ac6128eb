#!/usr/bin/env bash
# Long runs. `make bench` runs all, `make bench ARGS="simulate score"` some. What is measured is appended to
# benchmarks/results/*.csv (see record.py), and `make results` makes docs/results/ of these. A trial run wants
# BENCH_RESULTS=FOLDER. $DLPFC of a recorded command is the dataset of the four sections that dlpfc_dataset makes.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
dlpfc=${DLPFC:-$root/../shared/data/dlpfc}
scratch=${SCRATCH:-$(mktemp -d)}
export PATH=$root/bin:$root/.venv/bin:$PATH NXF_SYNTAX_PARSER=v2 NXF_OFFLINE=true NXF_ANSI_LOG=false

# DATASET METHOD COMMAND...: elapsed time, CPU time and peak memory of a whole process
measure() { python "$root/benchmarks/record.py" measure programs "$1" "$2" -- "${@:3}"; }

# 1,000,000 cells x 300 genes, both kinds of noise; then the join and normalisation of the counts
bench_simulate() {
    measure "1,000,000 cells x 300 genes, Gaussian noise" simulate \
        simulate --quiet --cells 500000 --genes 300 -o "$scratch/gaussian.h5ad"
    rm -f "$scratch/gaussian.h5ad"
    measure "1,000,000 cells x 300 genes, negative binomial" simulate \
        simulate --quiet --cells 500000 --genes 300 --noise nb -o "$scratch/nb.h5ad"
    measure "1,000,000 cells x 300 genes, negative binomial" preprocess \
        preprocess --quiet "$scratch/nb.h5ad" --label-key cell_type -o "$scratch/nb.dataset.h5ad"
    rm -f "$scratch"/nb*.h5ad
}

# 9,000 cells of real sections x 6 embeddings
bench_score() {
    dlpfc_dataset
    for method in none shuffled pca combat harmony scanorama; do
        measure "DLPFC, 15,769 spots x 653 genes" "fit-baseline $method" \
            fit-baseline --quiet "$scratch/dlpfc.h5ad" --method "$method" -o "$scratch/$method.fit.h5ad"
    done
    measure "DLPFC, 9,000 spots x 6 embeddings, 2 threads" score \
        score --quiet --threads 2 --max-cells 9000 \
        "$scratch/dlpfc.h5ad" "$scratch"/*.fit.h5ad -o "$scratch/scores.json"
}

# kBET per label with scib-metrics' own search and with the exact one: the same value, at what cost
bench_kbet() { python -W ignore "$root/benchmarks/kbet.py"; }

# The pipeline on its own simulated data, and on four sections
bench_pipeline() {
    (cd "$scratch" && measure "make run: 2 x 225 cells, 3 seeds" "pipeline, default methods" \
        nextflow -q run "$root" --simulate --outdir simulated)
}
bench_dlpfc() {
    dlpfc_sheet
    (cd "$scratch" && measure "DLPFC, 15,769 spots x 653 genes, 2 seeds" "pipeline, 6 methods" \
        nextflow -q run "$root" --input dlpfc.csv --batch_key sample \
        --label_key layer --methods none,pca,combat,harmony,scanorama,shuffled --seeds 2 --outdir dlpfc)
    python "$root/benchmarks/table.py" dlpfc "DLPFC, 15,769 spots x 653 genes" "$scratch/dlpfc/scores/dlpfc.scores.json"
}

# BatchBlend next to others: simulations, batch effect against the truth, refusal, sections, time and memory
bench_batchblend() {
    local program=(python -W ignore "$root/benchmarks/batchblend.py")
    dlpfc_dataset
    for part in simulations recovery robustness speed scale; do "${program[@]}" "$part"; done
    for part in refusal sections; do "${program[@]}" "$part" "$scratch/dlpfc.h5ad"; done
}

# scMEDAL: batch and label in embeddings of four sections, counterfactuals on simulations, prediction, time and memory
bench_scmedal() {
    local program=(python -W ignore "$root/benchmarks/scmedal.py")
    dlpfc_dataset
    for part in sections mixed speed; do "${program[@]}" "$part" "$scratch/dlpfc.h5ad" --keep "$scratch/scmedal"; done
    "${program[@]}" counterfactuals
    "${program[@]}" large
}

# spaVAE: domains, held-out spots, sections together, spatial genes, time
bench_spavae() {
    local program=(python -W ignore "$root/benchmarks/spavae.py")
    for part in domains stopping held-out joint; do "${program[@]}" "$part" "$dlpfc"; done
    for part in genes speed; do "${program[@]}" "$part" "$dlpfc" 151507; done
    "${program[@]}" large
}

# All methods of the cards on simulations and sections, three quarters of an hour on two cores; needs the extras (LIGER's too) and Seurat
bench_peers() {
    dlpfc_dataset
    "${PYTHON:-python}" -W ignore "$root/benchmarks/peers.py" run "$scratch/peers" --dlpfc "$scratch/dlpfc.h5ad"
}

# What methods do to one batch that is called two, on a simulated donor and on a section
bench_calibration() {
    local program=(python -W ignore "$root/benchmarks/calibration.py")
    "${program[@]}" "$scratch/calibration/donor"
    "${program[@]}" "$scratch/calibration/section" --dlpfc "$dlpfc/151507.h5ad"
}

# CPU time with one thread and with two, all cores busy
bench_busy() { python -W ignore "$root/benchmarks/busy.py"; }

# How often intervals of the difference of two equal methods hold 0
bench_intervals() { OMP_NUM_THREADS=1 python -W ignore "$root/benchmarks/intervals.py"; }

# Positions of spots by their expression: presets, rivals, radii, other sections, memory
bench_dpvae() {
    local program=(python -W ignore "$root/benchmarks/dpvae.py") two=(151507 151669)
    for part in rivals split plain spaces novelty; do "${program[@]}" "$part" "$dlpfc" "${two[@]}"; done
    "${program[@]}" across "$dlpfc"
    "${program[@]}" gradient "$dlpfc" 151507
    for part in anchors large; do "${program[@]}" "$part"; done
}

dlpfc_sheet() {
    [[ -d $dlpfc ]] || { echo "no folder $dlpfc: set DLPFC to that of the four sections" >&2; exit 2; }
    { echo sample,path; for f in "$dlpfc"/*.h5ad; do echo "$(basename "$f" .h5ad),$(realpath "$f")"; done; } > "$scratch/dlpfc.csv"
}

dlpfc_dataset() {
    dlpfc_sheet
    preprocess --quiet "$scratch/dlpfc.csv" --label-key layer -o "$scratch/dlpfc.h5ad"
}

for name in "${@:-simulate score kbet pipeline dlpfc batchblend scmedal spavae dpvae peers calibration busy intervals}"; do
    for part in $name; do "bench_$part"; done
done
echo "files are in $scratch"
