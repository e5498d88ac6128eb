#!/usr/bin/env bash
# Makes what the pipeline runs with: .venv (python, its packages, nextflow) and .tools (what makes .venv).
# `make setup` calls it. It does nothing when all is as locked, and goes on where an interrupted one stopped.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
tools=$root/.tools
stamp=$venv/unbatch-setup.stamp
inputs=(setup/setup.sh setup/check_jars.py setup/tools.lock setup/jgo.toml setup/jgo.lock.toml
    containers/requirements-dev.lock)

say() { echo "setup: $*" >&2; }
die() {
    say "$*"
    exit 2
}

first_match() { sed -n "$1" | head -n 1; }

sha256() { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi; }

# All that a set-up depends on; where the folder is belongs to it, since .venv holds its own path.
state() {
    (cd "$root" && pwd -P && cat "${inputs[@]}") | sha256
    "$venv/bin/python" --version
    ls "$tools"
    type -ap nextflow | grep -v "^$venv/" || true
}

# find_python CONDITION: prints the first python for which the condition holds. Each one is run, since a
# pyenv shim can be on PATH while no version stands behind it.
find_python() {
    local candidate pyenv=${PYENV_ROOT:-${HOME:-}/.pyenv}/versions
    # The base, since a python of an environment goes when the environment goes.
    local program="import os, sys, sysconfig; ($1) or sys.exit(1); print(sys._base_executable)"
    for candidate in python3.13 python3.12 python3 python python3.11 python3.10 \
        "$pyenv"/3.13.*/bin/python "$pyenv"/3.12.*/bin/python "$pyenv"/3.1[01].*/bin/python; do
        "$candidate" -I -c "$program" 2>/dev/null && return
    done
    return 1
}

# The packages need 3.12 or 3.13, and its headers: some of them are compiled here.
FITS="(3, 12) <= sys.version_info < (3, 14) and os.path.exists(sysconfig.get_path('include') + '/Python.h')"

# Prints the first nextflow on PATH that is new enough and not a launcher of ours.
find_nextflow() {
    local candidate version
    while read -r candidate; do
        [[ $(readlink -f "$candidate") == */setup/nextflow ]] && continue
        version=$("$candidate" -version </dev/null 2>/dev/null | first_match 's/.*version \([0-9][0-9.]*\).*/\1/p')
        printf '25.04\n%s\n' "$version" | sort -V -C || continue
        echo "$candidate"
        return
    done < <(type -ap nextflow)
    return 1
}

check_java() {
    local home=${NXF_JAVA_HOME:-${JAVA_HOME:-}} version
    version=$("${home:+$home/bin/}java" -version 2>&1 | first_match 's/.* version "\([0-9]*\).*/\1/p') || true
    [[ ${version:-0} -ge 17 ]] ||
        die "Java 17 or newer is missing${version:+ (found $version)}: install it, for example Debian's package" \
            "openjdk-17-jre-headless, or set JAVA_HOME to one."
}

check_compiler() {
    if ! command -v "${CC:-cc}" >/dev/null || ! command -v "${CXX:-c++}" >/dev/null; then
        die "A C and C++ compiler (cc, c++) is missing: install one, for example Debian's package build-essential."
    fi
}

# What the user set for one of pip, uv and jgo serves all three: uv reads nothing of pip's, and jgo knows
# certificates by another name.
share_network_settings() {
    local index certificates
    index=${UV_DEFAULT_INDEX:-${UV_INDEX_URL:-${PIP_INDEX_URL:-$(pip_config global.index-url)}}}
    if [[ -n $index ]]; then
        export UV_DEFAULT_INDEX=$index PIP_INDEX_URL=${PIP_INDEX_URL:-$index}
    fi
    certificates=${SSL_CERT_FILE:-${PIP_CERT:-${REQUESTS_CA_BUNDLE:-$(pip_config global.cert)}}}
    if [[ -n $certificates ]]; then
        export SSL_CERT_FILE=$certificates
        export PIP_CERT=${PIP_CERT:-$certificates} REQUESTS_CA_BUNDLE=${REQUESTS_CA_BUNDLE:-$certificates}
    fi
}

pip_config() { "$tools/env/bin/python" -m pip config get "$1" 2>/dev/null || true; }

make_tools() {
    local python
    find_python "sys.version_info >= (3, 10)" >/dev/null ||
        die "Python 3.10 or newer is missing: install it, for example Debian's packages python3 and python3-venv."
    python=$(find_python "sys.version_info >= (3, 10) and __import__('venv') and __import__('ensurepip')") ||
        die "Python's module venv is missing: install it, for example Debian's package python3-venv."
    say "installing uv and jgo into .tools"
    "$tools/env/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$tools/env"
    share_network_settings
    "$tools/env/bin/python" -m pip install --quiet --require-hashes -r "$root/setup/tools.lock"
}

make_venv() {
    local python uv=$tools/env/bin/uv
    # Its programs hold its path: in a folder that was moved or copied, it is made anew.
    if ! "$venv/bin/python" --version >/dev/null 2>&1 || ! grep -qF "'$venv'" "$venv/bin/activate"; then
        if python=$(find_python "$FITS"); then
            say "making .venv with $python"
            "$uv" venv --quiet --clear --python "$python" "$venv"
        else
            say "no Python 3.12 or 3.13 (with its headers) is on PATH or in pyenv's folder: fetching one"
            UV_PYTHON_INSTALL_DIR=$tools/python \
                "$uv" venv --quiet --clear --managed-python --python 3.13 "$venv" ||
                die "Python 3.12 or 3.13 is missing and could not be fetched: install it with its headers, for" \
                    "example Debian's packages python3 and python3-dev, or with pyenv."
        fi
    fi
    say "installing the locked packages into .venv (about 7 GB, a few minutes)"
    # Bytecode is made now, since tasks are told not to write any.
    "$uv" pip sync --require-hashes --compile-bytecode --python "$venv/bin/python" \
        "$root/containers/requirements-dev.lock"
    say "compiling umap, which tasks would do otherwise"
    env -u NUMBA_CACHE_DIR PYTHONPATH="$root/bin" PYTHONDONTWRITEBYTECODE=1 \
        "$venv/bin/python" -c "from unbatch.compiled import compile_umap; compile_umap()"
}

make_nextflow() {
    local found jars=$tools/nextflow
    if found=$(find_nextflow); then
        say "using $found"
        rm -f "$venv/bin/nextflow"
        return
    fi
    local check=("$venv/bin/python" "$root/setup/check_jars.py" "$root/setup/jgo.lock.toml" "$jars")
    if ! "${check[@]}" 2>/dev/null; then
        say "fetching Nextflow into .tools (about 30 MB, a minute or two)"
        rm -rf "$jars"
        (cd "$root/setup" && "$tools/env/bin/python" -m jgo --quiet --resolver python --system-java \
            --repo-cache "$tools/maven" --cache-dir "$tools/jgo" sync) ||
            die "Nextflow could not be fetched from Maven Central: try again, or install nextflow 25.04 or newer."
        # A damaged download is not kept: another set-up fetches it again.
        "${check[@]}" || { rm -rf "$jars" "$tools/maven" && die "Nextflow's files are not the locked ones."; }
    fi
    ln -sfn ../../setup/nextflow "$venv/bin/nextflow"
}

main() {
    if [[ -e $stamp && $(state 2>/dev/null) == "$(<"$stamp")" ]]; then return; fi
    check_java
    check_compiler
    make_tools
    make_venv
    ln -sfn ../../setup/unbatch "$venv/bin/unbatch"
    # `import unbatch`: the package stays in bin/, where an installation would leave files that change its fingerprint
    echo "$root/bin" >"$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/unbatch.pth"
    make_nextflow
    state >"$stamp" # last: an interrupted set-up is not taken for a whole one
    say "done in $SECONDS s: .venv takes $(du -sh "$venv" | cut -f 1), .tools $(du -sh "$tools" | cut -f 1)"
}

# Tests source this file for its functions.
if [[ ${BASH_SOURCE[0]} == "$0" ]]; then main; fi
