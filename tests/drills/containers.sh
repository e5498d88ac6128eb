#!/usr/bin/env bash
# Tasks in containers give the results of tasks without: containers.sh docker|podman|apptainer|singularity [IMAGE].
# With Docker they also run read-only and as a user that the image does not know, and Seurat and LIGER in images of their
# own where these have been made. IMAGE is that of `make image` by default; Apptainer and Singularity want a .sif file.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
engine=${1:-docker}
image=${2:-$(sed -n 's/^__version__ = "\(.*\)"/unbatch:\1/p' "$root/bin/unbatch/__init__.py")}
command -v "$engine" >/dev/null || skip "no $engine here"
case $engine in
docker | podman) "$engine" image inspect "$image" >/dev/null 2>&1 || skip "$engine has no image $image, or does not run" ;;
apptainer | singularity) [[ -s $image ]] || skip "no file $image" ;;
*) fail "$engine: expected docker, podman, apptainer or singularity" ;;
esac
reference
in_container() { # NAME
    "${tiny[@]}" -profile "test,$engine" --container "$image" -w "$here/work-$1" --outdir "$here/$1" >"$1.log" 2>&1 ||
        fail "the run in a container failed: $here/$1.log"
    same "$here/$1"
}
in_container "$engine"
if [[ $engine == docker ]]; then
    # where Docker is called, since 25.04 loses the profiles when -c gives it a file of options
    mkdir -p strict
    cat >strict/docker <<'END'
#!/usr/bin/env bash
PATH=${PATH#*:}
given=("$@")
for ((i = 0; i < $#; i++)); do
    [[ ${given[i]} == -u ]] && given[i + 1]=1234:1234
done
[[ $1 == run ]] && given=(run --read-only --tmpfs /tmp "${given[@]:1}")
exec docker "${given[@]}"
END
    chmod +x strict/docker
    umask 000
    PATH=$here/strict:$PATH in_container docker-read-only
    [[ $(find work-docker-read-only -user 1234 -print -quit) ]] || fail "tasks were not run as another user"
    for method in seurat liger; do
        docker image inspect "unbatch-$method:${image##*:}" >/dev/null 2>&1 || { say "no image of $method"; continue; }
        nextflow run "$root" -profile test,docker --methods none,$method --controls false --integrated false \
            --container "$image" -w "$here/work-$method" --outdir "$here/$method" >"$method.log" 2>&1 ||
            fail "the run in the image of $method failed: $here/$method.log"
        [[ -s $here/$method/fits/simulated.$method.default.s0.fit.h5ad ]] || fail "no fit of $method"
    done
fi
say "passed"
