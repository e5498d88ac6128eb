#!/usr/bin/env python3
"""Releases: `release.py check`, `release.py version 0.2.0`, `release.py sbom`. Needs nothing but Python and git.

The version of `bin/unbatch/__init__.py` is the one that counts; `version` writes it there and wherever else a file has
to state it, and `check` says what is not as a release has to be.
"""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACES = {
    "bin/unbatch/__init__.py": r'^__version__ = "(.*)"',
    "nextflow.config": r"^    version = '(.*)'",
    "nextflow.config, container": r"^    container = params.container \?: 'unbatch:(.*)'",
    ".nf-core.yml": r"^  version: (.*)",
    "CITATION.cff": r"^version: (.*)",
    "nextflow_schema.json": r'"container": \{ "type": "string", "default": "unbatch:(.*?)"',
}
"""Where the version stands."""


def stated(root: Path = ROOT) -> dict[str, str]:
    """Version by place."""
    found = {}
    for place, pattern in PLACES.items():
        match = re.search(pattern, (root / place.split(",")[0]).read_text(), re.M)
        found[place] = match[1] if match else "none"
    return found


def write_version(version: str, root: Path = ROOT) -> None:
    """Write the version to all places."""
    for place, pattern in PLACES.items():
        path = root / place.split(",")[0]
        text = path.read_text()
        match = re.search(pattern, text, re.M)
        if match is None:
            raise SystemExit(f"{path}: states no version that is found by {pattern}")
        path.write_text(text[: match.start(1)] + version + text[match.end(1) :])


def packages(lock: str) -> list[tuple[str, str, list[str]]]:
    """Name, version and sha256 checksums of every package of a lock."""
    entries = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)(.*?)(?=^\S|\Z)", lock, re.M | re.S)
    return [(name, version, re.findall(r"--hash=sha256:([0-9a-f]{64})", rest)) for name, version, rest in entries]


def sbom(root: Path = ROOT) -> dict:
    """Make a software bill of materials (CycloneDX 1.6) from the lock of the common image."""
    # files of a package, one a platform, are told apart by their checksums
    components = [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{name}@{version}",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{name}@{version}",
            "externalReferences": [
                {
                    "type": "distribution",
                    "url": f"pkg:pypi/{name}@{version}",
                    "hashes": [{"alg": "SHA-256", "content": checksum}],
                }
                for checksum in checksums
            ],
        }
        for name, version, checksums in packages((root / "containers" / "requirements.lock").read_text())
    ]
    version = stated(root)["bin/unbatch/__init__.py"]
    about = {"type": "application", "bom-ref": "unbatch", "name": "unbatch", "version": version}
    about["licenses"] = [{"license": {"id": "MIT"}}]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": about},
        "components": components,
    }


def git(*arguments: str, root: Path = ROOT) -> str:
    """Return what git says, stripped."""
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False).stdout.strip()


def problems(root: Path = ROOT) -> list[str]:
    """List what is not as a release has to be, one sentence each."""
    version = stated(root)["bin/unbatch/__init__.py"]
    found = [
        f"{place}: version is {other}, expected {version} as in bin/unbatch/__init__.py"
        for place, other in stated(root).items()
        if other != version
    ]
    if not re.search(rf"^## {re.escape(version)} ", (root / "CHANGELOG.md").read_text(), re.M):
        found.append(f"CHANGELOG.md: has no section '## {version} (date)'")
    if git("status", "--porcelain", "--untracked-files=no", root=root):
        found.append("the work tree has changes that are not committed")
    if f"v{version}" not in git("tag", "--points-at", "HEAD", root=root).split():
        found.append(f"no tag v{version} points at this commit (git tag v{version})")
    lock = (root / "containers" / "requirements.lock").read_bytes()
    if hashlib.sha256(lock).hexdigest() not in (root / "containers" / "environment.yml").read_text():
        found.append("containers/environment.yml: is not that of requirements.lock (containers/make-environment.sh)")
    bare = [name for name, _version, checksums in packages(lock.decode()) if not checksums]
    if bare:
        found.append(f"containers/requirements.lock: no checksum of {', '.join(bare)}")
    return found


def main() -> None:
    """Do what the command line asks for."""
    match sys.argv[1:]:
        case ["check"]:
            found = problems()
            print(
                "\n".join(found)
                or "as a release has to be; what is left are the tests and the image (docs/developing.md)"
            )
            sys.exit(1 if found else 0)
        case ["version", version] if re.fullmatch(r"\d+\.\d+\.\d+", version):
            write_version(version)
        case ["sbom"]:
            print(json.dumps(sbom(), indent=1))
        case _:
            sys.exit("release.py check | version X.Y.Z | sbom")


if __name__ == "__main__":
    main()
