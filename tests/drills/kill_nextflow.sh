#!/usr/bin/env bash
# kill -9 of Nextflow at every step, each time followed by -resume: done steps are kept, and what was published in part is
# published again. Results are those of a run without trouble.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
reference
resume=()
for step in SIMULATE PREPROCESS FIT SCORE REPORT MULTIQC; do
    setsid "${tiny[@]}" -profile test --outdir "$here/killed" "${resume[@]}" >"killed-$step.log" 2>&1 &
    run=$!
    reached() { grep -q "Submitted process > UNBATCH:$step " "killed-$step.log"; }
    until_true 300 reached || fail "$step did not start: $here/killed-$step.log"
    sleep 1
    # the JVM is the launcher: it replaces the shell
    kill -9 "$run"
    wait "$run" 2>/dev/null && fail "it ended well: $here/killed-$step.log"
    say "killed at $step, $(grep -c Cached "killed-$step.log" || true) tasks kept"
    # what ran goes on for its time, and would write into the work folder
    for process in $(working_in "$here/work"); do kill -9 "$process" 2>/dev/null || true; done
    resume=(-resume)
done
# as a kill while files are copied would leave them
for file in dataset/simulated.h5ad fits/simulated.none.default.s0.fit.h5ad scores/simulated.scores.json; do
    truncate -s 1000 "killed/$file"
done
"${tiny[@]}" -profile test --outdir "$here/killed" -resume >resumed.log 2>&1 || fail "-resume: $here/resumed.log"
kept=$(grep -c Cached resumed.log || true)
[[ $kept -ge 6 ]] || fail "$kept tasks were kept, expected 6 or more: $here/resumed.log"
same "$here/killed"
say "passed, $kept tasks kept at the end"
