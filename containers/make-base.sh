#!/usr/bin/env bash
# Makes the base image unbatch-base:SUITE where none can be pulled: a release of Debian with python and the certificates
# of this machine. That of the common image is trixie, whose python is 3.13; Seurat 4 is in bookworm. It needs root,
# debootstrap, and a Docker engine:
#
#     containers/make-base.sh
#     make image BASE=unbatch-base:trixie
#     containers/make-base.sh bookworm
#     make image-seurat SEURAT_BASE=unbatch-base:bookworm
#
# DEBIAN_MIRROR is another mirror of Debian than debootstrap's own choice.
set -euo pipefail

suite=${1:-trixie}
image=unbatch-base:$suite
certificates=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv "$suite" "$folder" \
    ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"}
cp "$certificates" "$folder/etc/ssl/certs/ca-certificates.crt"
rm -rf "$folder"/var/cache/apt/archives/*.deb "$folder"/var/lib/apt/lists/*

tar --create --directory "$folder" --one-file-system . |
    docker import --change 'ENV LANG=C.UTF-8' --change 'CMD ["bash"]' - "$image"
echo "made $image"
