#!/usr/bin/env bash
# Long runs behind benchmarks/RESULTS.md. `make bench` runs all, `make bench ARGS="simulate score"` some.
# Figures are for whole processes: elapsed time, CPU time (user + system), peak resident memory of the largest process.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
dlpfc=${DLPFC:-$root/../shared/data/dlpfc}
scratch=${SCRATCH:-$(mktemp -d)}
export PATH=$root/bin:$root/.venv/bin:$PATH NXF_SYNTAX_PARSER=v2 NXF_OFFLINE=true NXF_ANSI_LOG=false

# GNU time is not everywhere; python's resource module is
measure() {
    python3 - "$@" <<'EOF'
import resource, subprocess, sys, time
start = time.perf_counter()
code = subprocess.call(sys.argv[2:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(f"{sys.argv[1]}: {time.perf_counter() - start:.0f} s elapsed, {used.ru_utime + used.ru_stime:.0f} s CPU, "
      f"{used.ru_maxrss * 1024 / 1e9:.2f} GB peak, exit {code}", flush=True)
sys.exit(code)
EOF
}

# 1,000,000 cells x 300 genes, both kinds of noise; then the join and normalisation of the counts
bench_simulate() {
    measure "simulate 1e6 x 300, gaussian" simulate --quiet --cells 500000 --genes 300 -o "$scratch/gaussian.h5ad"
    rm -f "$scratch/gaussian.h5ad"
    measure "simulate 1e6 x 300, nb" simulate --quiet --cells 500000 --genes 300 --noise nb -o "$scratch/nb.h5ad"
    measure "preprocess 1e6 x 300" preprocess --quiet "$scratch/nb.h5ad" --label-key cell_type -o "$scratch/nb.dataset.h5ad"
    rm -f "$scratch"/nb*.h5ad
}

# 9,000 cells of real sections x 6 embeddings
bench_score() {
    dlpfc_sheet
    preprocess --quiet "$scratch/dlpfc.csv" --label-key layer -o "$scratch/dlpfc.h5ad"
    for method in none shuffled pca combat harmony scanorama; do
        measure "fit $method, 15,769 x 653" \
            fit-baseline --quiet "$scratch/dlpfc.h5ad" --method "$method" -o "$scratch/$method.fit.h5ad"
    done
    measure "score 9,000 x 6 embeddings, 2 threads" score --quiet --threads 2 --max-cells 9000 \
        "$scratch/dlpfc.h5ad" "$scratch"/*.fit.h5ad -o "$scratch/scores.json"
}

# kBET per label with scib-metrics' own search and with the exact one: the same value, at what cost
bench_kbet() { python3 "$root/benchmarks/kbet.py"; }

# The pipeline on its own simulated data, and on four sections
bench_pipeline() {
    (cd "$scratch" && measure "make run's pipeline" nextflow -q run "$root" --simulate --outdir simulated)
}
bench_dlpfc() {
    dlpfc_sheet
    (cd "$scratch" && measure "pipeline on four sections" nextflow -q run "$root" --input dlpfc.csv --batch_key sample \
        --label_key layer --methods none,pca,combat,harmony,scanorama,shuffled --seeds 2 --outdir dlpfc)
    python3 "$root/benchmarks/table.py" "$scratch/dlpfc/scores/dlpfc.scores.json"
}

# BatchBlend beside others: simulations, batch effect against the truth, refusal, sections, time and memory
bench_batchblend() {
    local program=("$root/.venv/bin/python" -W ignore "$root/benchmarks/batchblend.py")
    dlpfc_sheet
    preprocess --quiet "$scratch/dlpfc.csv" --label-key layer -o "$scratch/dlpfc.h5ad"
    for part in simulations recovery robustness speed scale; do measure "$part" "${program[@]}" "$part"; done
    for part in refusal sections; do measure "$part" "${program[@]}" "$part" "$scratch/dlpfc.h5ad"; done
}

# scMEDAL: batch and label in embeddings of four sections, counterfactuals on simulations, prediction, time and memory
bench_scmedal() {
    local program=("$root/.venv/bin/python" -W ignore "$root/benchmarks/scmedal.py")
    dlpfc_sheet
    preprocess --quiet "$scratch/dlpfc.csv" --label-key layer -o "$scratch/dlpfc.h5ad"
    for part in sections mixed speed; do
        measure "$part" "${program[@]}" "$part" "$scratch/dlpfc.h5ad" --keep "$scratch/scmedal"
    done
    measure counterfactuals "${program[@]}" counterfactuals
    measure large "${program[@]}" large
}

# All methods of the cards on simulations and sections, three quarters of an hour on two cores; needs the extras (LIGER's too) and Seurat
bench_peers() {
    dlpfc_sheet
    preprocess --quiet "$scratch/dlpfc.csv" --label-key layer -o "$scratch/dlpfc.h5ad"
    measure peers "${PYTHON:-$root/.venv/bin/python}" -W ignore "$root/benchmarks/peers.py" run "$scratch/peers" --dlpfc "$scratch/dlpfc.h5ad"
}

# CPU time with one thread and with two, all cores busy
bench_busy() { measure busy "$root/.venv/bin/python" -W ignore "$root/benchmarks/busy.py"; }

dlpfc_sheet() {
    [[ -d $dlpfc ]] || { echo "no folder $dlpfc: set DLPFC to that of the four sections" >&2; exit 2; }
    { echo sample,path; for f in "$dlpfc"/*.h5ad; do echo "$(basename "$f" .h5ad),$(realpath "$f")"; done; } > "$scratch/dlpfc.csv"
}

for name in "${@:-simulate score kbet pipeline dlpfc batchblend scmedal peers busy}"; do
    for part in $name; do "bench_$part"; done
done
echo "files are in $scratch"
