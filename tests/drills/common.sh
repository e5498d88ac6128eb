# What the drills share; sourced. Each works in a folder of its own and ends only what it has started.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
drills=$root/tests/drills
here=${DRILL_FOLDER:-$(mktemp -d)}
export PATH=$root/.venv/bin:$PATH NXF_SYNTAX_PARSER=v2 NXF_OFFLINE=true NXF_ANSI_LOG=false
export NXF_JVM_ARGS=${NXF_JVM_ARGS:--XX:TieredStopAtLevel=1 -XX:+UseSerialGC}
# the Nextflow of set-up has no plugins, without which it does not know any cloud
[[ -z ${NEXTFLOW:-} ]] || PATH=$(dirname "$NEXTFLOW"):$PATH
mkdir -p "$here"
cd "$here"

tiny=(nextflow run "$root" --methods none,harmony --controls false --evidence false --integrated false)

say() { echo "$(basename "$0"): $*"; }
fail() {
    say "FAILED: $*"
    exit 1
}
skip() {
    say "skipped: $*"
    exit 77
}

# a plugin of Nextflow, which these drills do not fetch
plugin() {
    compgen -G "${NXF_PLUGINS_DIR:-${NXF_HOME:-$HOME/.nextflow}/plugins}/$1-*" >/dev/null ||
        skip "Nextflow has no plugin $1 here; NEXTFLOW and NXF_PLUGINS_DIR name one that has"
}

# until SECONDS COMMAND: waits until the command succeeds
until_true() {
    local end=$((SECONDS + $1))
    shift
    while ! "$@"; do
        ((SECONDS < end)) || return 1
        sleep 0.3
    done
}

# what a run without trouble gives, made once where several drills share a folder
reference() {
    [[ -s $here/reference/scores/simulated.scores.json ]] ||
        (mkdir -p "$here/of-reference" && cd "$here/of-reference" && "${tiny[@]}" -profile test --outdir "$here/reference") >reference.log 2>&1 ||
        fail "the run without trouble failed: $here/reference.log"
}

same() { python "$drills/same.py" "$here/reference" "$1" || fail "results are not those of a run without trouble"; }

# processes that work in a folder
working_in() {
    local process
    for process in /proc/[0-9]*; do
        [[ $(readlink "$process/cwd" 2>/dev/null) == "$1"* ]] && echo "${process#/proc/}"
    done
    return 0
}

# a fit that runs: its own process, not `attempt` before it
fit() {
    local process
    for process in $(working_in "$here/work"); do
        tr '\0' ' ' 2>/dev/null <"/proc/$process/cmdline" | grep -q '^[^ ]*python[^ ]* [^ ]*/bin/fit-baseline ' && echo "$process" && return
    done 2>/dev/null
    return 1
}
