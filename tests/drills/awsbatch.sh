#!/usr/bin/env bash
# -profile awsbatch on moto's AWS Batch and S3, whose jobs run in Docker: awsbatch.sh [IMAGE]. Ends with the results of a
# local run; then -resume, a bucket that is not there, and a fit that asks for a GPU and runs out of memory once.
# IMAGE has the AWS CLI, as `make image BUILD_ARGS='--build-arg AWS=1'` makes it. MOTO is a Python with moto[server,batch,s3].
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
image=${1:-$(sed -n 's/^__version__ = "\(.*\)"/unbatch:\1/p' "$root/bin/unbatch/__init__.py")}
port=${PORT:-15000}
plugin nf-amazon
docker image inspect "$image" >/dev/null 2>&1 || skip "no image $image, or no Docker that runs"
docker run --rm "$image" aws --version >/dev/null 2>&1 || skip "no AWS CLI in $image"
"${MOTO:-python3}" -c 'import moto.server, boto3, docker' 2>/dev/null || skip "no moto: MOTO=PYTHON names a Python that has it"

name=drill.invalid/unbatch:batch
end() {
    kill "$server" 2>/dev/null
    docker rmi "$name" >/dev/null 2>&1
    wait 2>/dev/null || true
}
export AWS_ENDPOINT_URL=http://127.0.0.1:$port AWS_REGION=us-east-1 AWS_DEFAULT_REGION=us-east-1
export AWS_ACCESS_KEY_ID=drill AWS_SECRET_ACCESS_KEY=drill AWS_EC2_METADATA_DISABLED=true
rm -f jobs.jsonl
MOTO_DOCKER_NETWORK_MODE=host "${MOTO:-python3}" "$drills/batch.py" "$port" unbatch jobs jobs.jsonl >batch.out 2>batch.err &
server=$!
trap end EXIT
docker tag "$image" "$name"
until_true 60 grep -qs ready batch.out || fail "no queue: $here/batch.err"

# where it is, and nothing else that the profile does not set
cat >aws.config <<END
aws.client.endpoint = '$AWS_ENDPOINT_URL'
aws.client.s3PathStyleAccess = true
END
cat >little.config <<END
includeConfig 'aws.config'
process { withName: 'FIT_GPU' { memory = { task.attempt == 1 ? 150.MB : 5.GB } } }
END
on_batch() { # CONFIG PROFILES [ARGUMENT ...]
    nextflow -c "$1" run "${tiny[@]:2}" -profile "test,$2" --queue jobs --aws_region us-east-1 --container "$name" \
        -work-dir s3://unbatch/work --outdir s3://unbatch/results "${@:3}"
}

reference
say "the run without trouble is done"
on_batch aws.config awsbatch >on-batch.log 2>&1 || fail "the run ended with $?: $here/on-batch.log"
rm -rf on-batch
docker run --rm --network host -u "$(id -u):$(id -g)" -v "$here:$here" $(env | sed -n 's/^\(AWS_[A-Z0-9_]*\)=.*/-e \1/p') \
    "$image" aws s3 cp --only-show-errors --recursive s3://unbatch/results "$here/on-batch"
same "$here/on-batch"
jobs=$(wc -l <jobs.jsonl)
say "$jobs jobs gave the same"

on_batch aws.config awsbatch -resume >resumed.log 2>&1 || fail "-resume ended with $?: $here/resumed.log"
[[ $(wc -l <jobs.jsonl) == "$jobs" ]] || fail "-resume did again what was done: $here/resumed.log"
code=0
on_batch aws.config awsbatch --outdir s3://nowhere/results -resume >nowhere.log 2>&1 || code=$?
[[ $code == 2 && $(wc -l <jobs.jsonl) == "$jobs" ]] || fail "a bucket that is not there gave $code: $here/nowhere.log"
say "-resume kept all, and a bucket that is not there is refused"

on_batch little.config awsbatch,gpu --methods none,scmedal -resume >little.log 2>&1 || fail "the run ended with $?: $here/little.log"
[[ $(grep -c '"MEMORY": \(150\|5120\),.*"GPU": 1' jobs.jsonl) == 2 ]] || fail "the fit was not tried twice with a GPU: $here/jobs.jsonl"
say "passed"
