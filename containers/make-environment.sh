#!/usr/bin/env bash
# Writes environment.yml, the Conda environment of -profile conda, from requirements.lock; `make lock` calls it. Packages
# are those of the lock, with its hashes. The checksum changes the file with the lock: Nextflow makes a new environment
# when the text of the file is another.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
sum=$(sha256sum requirements.lock | cut -d ' ' -f 1)
cat >environment.yml <<END
# Made by make-environment.sh of requirements.lock with sha256 $sum
name: unbatch
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python=3.13
  - pip
  # Nextflow measures tasks with ps
  - procps-ng
  # some packages are compiled
  - c-compiler
  - cxx-compiler
  - cmake
  - make
  - pip:
      - --require-hashes
      - --requirement requirements.lock
END
