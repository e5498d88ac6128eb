"""Splits a lock for the image without CUDA: cpu_lock.py LOCK writes LOCK.cpu and LOCK.torch."""

import re
import sys
from pathlib import Path

GPU = re.compile(r"(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==")


def split(text: str) -> tuple[str, str]:
    """Return the lock without what belongs to CUDA, and the requirement of torch.

    Parameters
    ----------
    text
        A lock with an entry for each package, whose further lines are indented.
    """
    entries = re.findall(r"^\S.*?(?=^\S|\Z)", text, re.M | re.S)
    torch = next(match[0] for entry in entries if (match := re.match(r"torch==[^\s;\\]+", entry)))
    return "".join(entry for entry in entries if not GPU.match(entry)), torch + "\n"


if __name__ == "__main__":
    lock = Path(sys.argv[1])
    for end, part in zip((".cpu", ".torch"), split(lock.read_text()), strict=True):
        Path(f"{lock}{end}").write_text(part)
