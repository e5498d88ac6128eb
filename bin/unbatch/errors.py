"""What can go wrong on the user's side, and the exit code that says so."""

import errno
import re
from collections.abc import Iterator

_NO_MEMORY = re.compile(r"out of memory|_ALLOC_FAILED|can't allocate memory|RESOURCE_EXHAUSTED", re.IGNORECASE)


class UnbatchError(Exception):
    """A problem that one sentence explains; programs print it without a traceback."""

    exit_code = 1


class InputError(UnbatchError):
    """Wrong usage or input: the sentence names the file and field, what was found and what would be right."""

    exit_code = 2


class StorageError(UnbatchError):
    """The disk is full or takes no more for another reason, which another try does not cure."""

    exit_code = 74


class NotApplicable(UnbatchError):
    """The method cannot say anything about this data (no coordinates, no labels, one batch)."""

    exit_code = 99


def causes(error: BaseException) -> Iterator[BaseException]:
    """Go through an error and those that it was raised from."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)


def out_of_memory(error: BaseException) -> bool:
    """Whether memory, of this machine or of its GPU, was too small, whatever the library calls it."""
    return any(
        isinstance(each, MemoryError)
        or (isinstance(each, OSError) and each.errno == errno.ENOMEM)
        # torch.OutOfMemoryError among them; torch's other allocators and XLA have no type of their own
        or (isinstance(each, RuntimeError) and _NO_MEMORY.search(str(each)) is not None)
        for each in causes(error)
    )
