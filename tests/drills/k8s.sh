#!/usr/bin/env bash
# -profile k8s against a stand-in for Kubernetes' API, whose pods run in Docker: k8s.sh [IMAGE]. Ends with the results of a
# local run; then -resume, results off the claim, and a fit that asks for a GPU and runs out of memory once. Needs root,
# as it gives the claim's folder to the group of the pods.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
image=${1:-$(sed -n 's/^__version__ = "\(.*\)"/unbatch:\1/p' "$root/bin/unbatch/__init__.py")}
port=${PORT:-16443}
plugin nf-k8s
[[ $(id -u) == 0 ]] || skip "needs root, as a kubelet does"
docker image inspect "$image" >/dev/null 2>&1 || skip "no image $image, or no Docker that runs"

reference
say "the run without trouble is done"
rm -rf claim pods.jsonl
mkdir -p claim/unbatch
git -C "$root" ls-files | tar -C "$root" -T - -cf - | tar -C claim/unbatch -xf -
python "$drills/k8s.py" "$port" data "$here/claim" pods.jsonl 2>k8s.err &
server=$!
end() {
    kill "$server" 2>/dev/null
    # pods of failed tasks stay, as on a cluster
    sed 's/.*"metadata": {"name": "\([^"]*\)".*/\1/' pods.jsonl 2>/dev/null | xargs -r docker rm --force >/dev/null 2>&1
    wait 2>/dev/null || true
}
trap end EXIT
export KUBECONFIG=$here/kube.yml
cat >kube.yml <<END
current-context: drill
clusters: [{name: drill, cluster: {server: "http://127.0.0.1:$port"}}]
users: [{name: drill, user: {token: none}}]
contexts: [{name: drill, context: {cluster: drill, user: drill}}]
END
echo "process { withName: 'FIT_GPU' { memory = { task.attempt == 1 ? 150.MB : 5.GB } } }" >little.config
on_pods() { # PROFILES [ARGUMENT ...]
    nextflow -c little.config run claim/unbatch "${tiny[@]:3}" -profile "test,$1" --k8s_claim data --k8s_mount "$here/claim" \
        --container "$image" -work-dir "$here/claim/work" --outdir "$here/claim/results" "${@:2}"
}

on_pods k8s >on-k8s.log 2>&1 || fail "the run ended with $?: $here/on-k8s.log"
same "$here/claim/results"
pods=$(wc -l <pods.jsonl)
say "$pods pods gave the same"

on_pods k8s -resume >resumed.log 2>&1 || fail "-resume ended with $?: $here/resumed.log"
[[ $(wc -l <pods.jsonl) == "$pods" ]] || fail "-resume did again what was done: $here/resumed.log"
code=0
on_pods k8s --outdir "$here/off" -resume >off.log 2>&1 || code=$?
[[ $code == 2 && $(wc -l <pods.jsonl) == "$pods" ]] || fail "results off the claim gave $code: $here/off.log"
say "-resume kept all, and results off the claim is refused"

on_pods k8s,gpu --gpu_type nvidia.com/gpu --methods none,scmedal -resume >little.log 2>&1 || fail "the run ended with $?: $here/little.log"
[[ $(grep -c '"limits": {"memory": "\(150\|5120\)Mi", "nvidia.com/gpu": 1}' pods.jsonl) == 2 ]] ||
    fail "the fit was not tried twice with a GPU: $here/pods.jsonl"
say "passed"
