#!/usr/bin/env bash
# kill -9 of Nextflow while fits run, then -resume: done steps are kept, results are those of a run without trouble.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
reference
setsid "${tiny[@]}" -profile test --outdir "$here/killed" >killed.log 2>&1 &
run=$!
fitting() { pgrep -f "$here/work/.*fit-baseline|bin/fit-baseline simulated" >/dev/null; }
until_true 300 fitting || fail "no fit ran: $here/killed.log"
# the JVM is the launcher: it replaces the shell
kill -9 "$run"
wait "$run" 2>/dev/null && fail "it ended well"
say "killed"
# what ran goes on for its time, and would write into the work folder
for process in $(working_in "$here/work"); do kill -9 "$process" 2>/dev/null || true; done
"${tiny[@]}" -profile test --outdir "$here/killed" -resume >resumed.log 2>&1 || fail "-resume: $here/resumed.log"
grep -c Cached resumed.log >/dev/null || fail "nothing was kept"
say "$(grep -c Cached resumed.log) tasks kept"
same "$here/killed"
say "passed"
