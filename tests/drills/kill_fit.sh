#!/usr/bin/env bash
# kill -9 of a fit: it is tried again, and the results are those of a run without trouble.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
reference
"${tiny[@]}" -profile test --outdir "$here/fit-killed" >fit-killed.log 2>&1 &
run=$!
found() { victim=$(fit); }
until_true 300 found || fail "no fit ran: $here/fit-killed.log"
kill -9 "$victim"
wait "$run" || fail "the run ended with $?: $here/fit-killed.log"
grep -q "Re-submitted" fit-killed.log || fail "nothing was tried again"
same "$here/fit-killed"
say "passed"
