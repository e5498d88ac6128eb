#!/usr/bin/env bash
# kill -9 of a fit: it is tried again, and the results are those of a run without trouble.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
reference
"${tiny[@]}" -profile test --outdir "$here/fit-killed" >fit-killed.log 2>&1 &
run=$!
fit() {
    local process
    for process in $(working_in "$here/work"); do
        tr '\0' ' ' <"/proc/$process/cmdline" 2>/dev/null | grep -q '^[^ ]*python[^ ]* [^ ]*/bin/fit-baseline ' && echo "$process" && return
    done
    return 1
}
until_true 300 fit >/dev/null || fail "no fit ran: $here/fit-killed.log"
kill -9 "$(fit)"
wait "$run" || fail "the run ended with $?: $here/fit-killed.log"
grep -q "Re-submitted" fit-killed.log || fail "nothing was tried again"
same "$here/fit-killed"
say "passed"
