"""How many threads a computation is worth."""

import logging

import torch

log = logging.getLogger("unbatch")


def use_threads(most: int, values: int, per_thread: int) -> int:
    """Give torch as many threads as the work is worth, and not more than the run has.

    Parameters
    ----------
    most
        Threads of the run.
    values
        Numbers that an operation works on, in one go.
    per_thread
        Such numbers that one more thread is worth its waiting for.

    Returns
    -------
    int
        The number of threads; the same for the same data, whatever else the machine does.
    """
    threads = max(1, min(most, values // per_thread))
    torch.set_num_threads(threads)
    log.debug("%d of %d threads", threads, most)
    return threads
