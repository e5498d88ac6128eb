"""Compares a folder of jars with jgo's lock: jgo records their hashes there, but does not check them."""

import hashlib
import sys
import tomllib
from pathlib import Path

lock, folder = map(Path, sys.argv[1:])
locked = {
    f"{jar['artifactId']}-{jar['version']}.jar": jar["sha256"]
    for jar in tomllib.loads(lock.read_text())["dependencies"]
}
found = {jar.name: hashlib.sha256(jar.read_bytes()).hexdigest() for jar in folder.glob("*/*.jar")}
wrong = sorted({name for name, _ in locked.items() ^ found.items()})
if wrong:
    sys.exit(f"not as locked: {', '.join(wrong)}")
