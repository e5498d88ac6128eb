#!/usr/bin/env bash
# The memory that tasks ask for is enough: each task is in a control group that kills it above that, and all pass at their
# first try. memory.sh [CELLS], 100,000 by default, x 2,000 genes. Needs root, to make control groups.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cells=${1:-100000}
[[ $(id -u) == 0 ]] || skip "needs root, to make control groups"
if [[ -d /sys/fs/cgroup/memory ]]; then
    groups=/sys/fs/cgroup/memory limit=memory.limit_in_bytes
elif grep -qs memory /sys/fs/cgroup/cgroup.subtree_control; then
    groups=/sys/fs/cgroup limit=memory.max
else
    skip "no control groups for memory here"
fi
own=$groups/unbatch-drill-$$
mkdir "$own-try" 2>/dev/null && rmdir "$own-try" || skip "no control group can be made here"
trap 'rmdir "$own"-* 2>/dev/null || true' EXIT
cat >limits.config <<END
process.beforeScript = { "trap '' INT; mkdir $own-\\\$\\\$; echo \${task.memory.toBytes()} > $own-\\\$\\\$/$limit; echo \\\$\\\$ > $own-\\\$\\\$/cgroup.procs" }
END
nextflow run "$root" -c limits.config --simulate --sim_cells $((cells / 2)) --sim_genes 2000 --sim_noise nb --sim_depth 400 \
    --methods pca,harmony --controls false --seeds 1 --integrated false --max_cpus 2 --outdir "$here/limited-$cells" >"limited-$cells.log" 2>&1 ||
    fail "a task was killed or failed: $here/limited-$cells.log"
grep "Tasks ask for" "limited-$cells.log"
grep -q "Execution is retried" "limited-$cells.log" && fail "a task was tried again: $here/limited-$cells.log"
[[ $(find "$own"-* -maxdepth 0 2>/dev/null | wc -l) -ge 6 ]] || fail "tasks were not limited"
cut -f 4,6,9,11 "limited-$cells/pipeline_info/trace.txt"
say "passed"
