#!/usr/bin/env bash
# Folders for work and results that are full or read-only: the run ends with a sentence that names the folder; with room,
# -resume ends with the results of a run without trouble. Needs root, to mount.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
[[ $(id -u) == 0 ]] || skip "needs root, to mount"
mounted=()
trap 'umount "${mounted[@]}"' EXIT
mounts() {
    mkdir -p "$1"
    mount -t tmpfs -o "$2" drill "$1" 2>/dev/null || skip "nothing can be mounted here"
    mounted+=("$here/$1")
}
# refused NAME SENTENCE OPTIONS: the run ends with an error and a line that holds the sentence
refused() {
    local name=$1 sentence=$2 code=0
    shift 2
    "${tiny[@]}" -profile test "$@" >"$name.log" 2>&1 || code=$?
    [[ $code != 0 ]] || fail "$name was no error: $here/$name.log"
    grep -q -e "$sentence" "$name.log" || fail "no sentence on $name: $here/$name.log"
    say "$name: exit $code: $(grep -m 1 -e "$sentence" "$name.log" | cut -c 1-200)"
}
# resumed NAME OUTDIR OPTIONS: with room it goes on where it was, and nothing is missing
resumed() {
    local name=$1 outdir=$2
    shift 2
    "${tiny[@]}" -profile test --outdir "$outdir" "$@" -resume >"$name-more.log" 2>&1 || fail "-resume: $here/$name-more.log"
    say "$name: with room, $(grep -c Cached "$name-more.log" || true) tasks kept"
    same "$outdir"
}

reference
mounts small size=600k
refused full-work "$here/small/work/.*: cannot write .*, no space is left on the disk (.* are free)" \
    -work-dir "$here/small/work" --outdir "$here/after-full"
mount -o remount,size=400m "$here/small"
resumed full-work "$here/after-full" -work-dir "$here/small/work"

mounts little size=200k
refused full-outdir "--outdir: $here/little/out: .* MB are free" --outdir "$here/little/out" -work-dir "$here/work-of-little"
mount -o remount,size=400m "$here/little"
resumed full-outdir "$here/little/out" -work-dir "$here/work-of-little"

mounts locked ro
refused read-only-outdir "$here/locked/out.*Read-only file system" --outdir "$here/locked/out"
grep -q "Submitted process" read-only-outdir.log && fail "tasks ran before"
refused read-only-work "Cannot create work-dir.*$here/locked/work.*write permissions" --outdir "$here/never" -work-dir "$here/locked/work"
grep -q "Submitted process" read-only-work.log && fail "tasks ran before"
say "passed"
