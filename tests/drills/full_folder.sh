#!/usr/bin/env bash
# A work folder that is full, and a folder of results that is read-only: the run ends with a sentence that names the folder;
# with room, -resume ends with the results of a run without trouble. Needs root, to mount.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
[[ $(id -u) == 0 ]] || skip "needs root, to mount"
mkdir -p small locked
mount -t tmpfs -o size=600k drill small 2>/dev/null || skip "nothing can be mounted here"
mount -t tmpfs -o ro drill locked
trap 'umount "$here/small" "$here/locked"' EXIT
reference
set +e
"${tiny[@]}" -profile test -work-dir "$here/small/work" --outdir "$here/after-full" >full.log 2>&1
code=$?
set -e
[[ $code != 0 ]] || fail "a full work folder was no error"
grep -q "the disk is full\|No space left" full.log || fail "no sentence on the full disk: $here/full.log"
say "full work folder: exit $code: $(grep -m 1 -h 'the disk is full\|No space left' full.log | head -c 200)"
mount -o remount,size=400m "$here/small"
"${tiny[@]}" -profile test -work-dir "$here/small/work" --outdir "$here/after-full" -resume >more.log 2>&1 || fail "-resume: $here/more.log"
same "$here/after-full"
set +e
"${tiny[@]}" -profile test --outdir "$here/locked/out" >locked.log 2>&1
code=$?
set -e
[[ $code != 0 ]] || fail "a read-only folder of results was no error"
grep -q "locked/out.*Read-only file system" locked.log || fail "no sentence on the read-only folder: $here/locked.log"
grep -q "Submitted process" locked.log && fail "tasks ran before"
say "read-only outdir: exit $code: $(grep -m 1 -h 'Read-only' locked.log | head -c 200)"
say "passed"
