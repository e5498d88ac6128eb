#!/usr/bin/env bash
# Slurm on this machine, from Debian's packages: the tiny run with job arrays, of which one job is cancelled, then the
# node is lost and drained. Ends with the results of a local run. Needs root and
#     apt-get install --no-install-recommends munge slurmctld slurmd slurm-client
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
for program in munged slurmctld slurmd sbatch; do
    PATH=$PATH:/usr/sbin type -p "$program" >/dev/null || skip "no $program on this machine"
done
[[ $(id -u) == 0 ]] || skip "needs root, as slurmd does"
PATH=$PATH:/usr/sbin

daemons=()
end() {
    ((${#daemons[@]})) && kill "${daemons[@]}" 2>/dev/null
    wait 2>/dev/null || true
}
trap end EXIT

# munge refuses folders that others may write to, as /tmp
auth=$(mktemp -d /run/unbatch-munge.XXXX)
dd if=/dev/urandom of="$auth/key" bs=1 count=1024 2>/dev/null
chmod 755 "$auth"
chmod 600 "$auth/key"
chown -R munge: "$auth"
runuser -u munge -- munged --foreground --key-file "$auth/key" --socket "$auth/socket" --pid-file "$auth/pid" \
    --seed-file "$auth/seed" --log-file "$auth/log" &
daemons+=($!)
host=$(hostname -s)
mkdir -p slurm/state slurm/spool
cat >slurm.conf <<END
ClusterName=drill
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
AuthInfo=socket=$auth/socket
StateSaveLocation=$here/slurm/state
SlurmdSpoolDir=$here/slurm/spool
SlurmctldPidFile=$here/slurm/ctld.pid
SlurmdPidFile=$here/slurm/d.pid
SlurmctldLogFile=$here/slurm/ctld.log
SlurmdLogFile=$here/slurm/d.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=5
JobAcctGatherParams=OverMemoryKill
ReturnToService=2
MailProg=/bin/true
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 RealMemory=16000
PartitionName=all Nodes=$host Default=YES State=UP
END
export SLURM_CONF=$here/slurm.conf
until_true 10 test -S "$auth/socket" || fail "munge did not start: $auth/log"
slurmctld -D -f "$SLURM_CONF" >slurm/ctld.out 2>&1 &
daemons+=($!)
slurmd -D -f "$SLURM_CONF" >slurm/d.out 2>&1 &
daemons+=($!)
idle() { sinfo -h -o %t 2>/dev/null | grep -q idle; }
until_true 60 idle || fail "no node is idle: $here/slurm"

reference
say "the run without trouble is done"
# two fits in one array
"${tiny[@]}" -profile test,slurm --queue all --queue_size 10 --array_size 2 --max_retries 4 --outdir "$here/on-slurm" >on-slurm.log 2>&1 &
run=$!
daemons+=($run)
running() { squeue -h -t R -o %i | head -n 1 | grep .; }
fitting() { squeue -h -t R -o '%i %j' | grep FIT | head -n 1 | cut -d ' ' -f 1 | grep .; }
over() { ! kill -0 "$run" 2>/dev/null; }
either() { over || "$@" >/dev/null; }

# one that has begun: of a job that is cancelled before, Nextflow waits minutes for its exit code
begun() { [[ $(working_in "$here/work" | while read -r process; do tr '\0' ' ' <"/proc/$process/cmdline" 2>/dev/null; echo; done | grep -c 'bin/fit-baseline ') -ge 2 ]]; }
until_true 300 either begun && ! over || fail "no fit ran: $here/on-slurm.log"
job=$(fitting)
scancel "$job"
say "cancelled job $job"
another() { [[ -n $(running) && $(running) != "$job" ]]; }
until_true 300 either another && ! over || fail "nothing ran after scancel: $here/on-slurm.log"
lost=$(running)
scontrol update nodename="$host" state=down reason=drill
say "the node is down, with job $lost"
sleep 3
# by ReturnToService the node may be back by itself
scontrol update nodename="$host" state=resume 2>/dev/null || true
until_true 300 either running && ! over || fail "nothing ran after the node was lost: $here/on-slurm.log"
scontrol update nodename="$host" state=drain reason=drill
pending() { squeue -h -t PD -o %i | grep -q .; }
until_true 330 either pending && ! over || fail "no job waits for the drained node: $here/on-slurm.log"
say "a job waits for the drained node"
scontrol update nodename="$host" state=resume
wait "$run" || fail "the run ended with $?: $here/on-slurm.log"
grep -rqs -- '--array' "$here"/work/*/*/.command.run || fail "no job array was submitted"
same "$here/on-slurm"
say "passed"
