"""What all programs share: options, logging, threads, and how they end."""

import atexit
import functools
import itertools
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from unbatch.errors import UnbatchError, out_of_memory
from unbatch.machine import versions
from unbatch.text import safe_text

log = logging.getLogger("unbatch")

PATIENCE = {
    # of GNU's, Intel's and LLVM's OpenMP: torch, scikit-learn, igraph, numba and MKL
    "OMP_WAIT_POLICY": "PASSIVE",
    "KMP_BLOCKTIME": "0",
    # a power of 2 of processor cycles, the least there is
    "OPENBLAS_THREAD_TIMEOUT": "4",
}
"""How threads wait for one another: asleep. By default they spin, and where all cores are busy that keeps a core from
the thread that they wait for; a fit of small data took six times the CPU time of one thread."""

InPath = click.Path(path_type=Path)
OutPath = click.Path(path_type=Path, dir_okay=False)
Folder = click.Path(path_type=Path, file_okay=False)


@dataclass(frozen=True)
class Run:
    """How a program was asked to run."""

    seed: int
    device: str
    threads: int
    debug: bool


def program(*packages: str) -> Callable[[Callable[..., None]], click.Command]:
    """Make a click command of a function whose first argument is a `Run`.

    Parameters
    ----------
    packages
        Libraries that the program uses in addition to `PACKAGES`, named by ``--version``.
    """

    def decorate(function: Callable[..., None]) -> click.Command:
        @functools.wraps(function)
        def wrapped(seed: int, device: str, threads: int | None, verbosity: str, debug: bool, **options: Any) -> None:
            run = Run(seed, device, threads or _usual_threads(), debug)
            _limit_threads(run.threads, stated=threads is not None)
            _use_writable_cache()
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(_SafeFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
            logging.basicConfig(handlers=[handler], force=True)
            # libraries report on themselves at INFO; the user asked about this program
            logging.getLogger().setLevel(logging.WARNING)
            log.setLevel(verbosity)
            try:
                function(run, **options)
            except (KeyboardInterrupt, click.ClickException):
                raise
            except Exception as error:
                if debug:
                    raise
                message, code = _explain(error)
                click.echo(f"Error: {safe_text(message)}", err=True)
                sys.exit(code)

        for option in reversed(_common_options(packages)):
            wrapped = option(wrapped)
        return click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})(wrapped)

    return decorate


def _explain(error: Exception) -> tuple[str, int]:
    """Return the sentence and the exit code that a program ends with."""
    from unbatch.data.io import storage_error

    text = " ".join(str(error).split())[:500]
    if out_of_memory(error):
        # as if the system had killed it: the pipeline then tries again with more memory
        return f"out of memory ({text})", 137
    if isinstance(error, UnbatchError):
        return str(error), error.exit_code
    # what programs write has its own sentence by now; this is what libraries write
    file = Path(str(error.filename)).absolute() if isinstance(error, OSError) and error.filename else None
    refused = storage_error(error, file.parent if file else Path.cwd(), file.name if file else "a file")
    if refused:
        return str(refused), refused.exit_code
    return f"unexpected {type(error).__name__}: {text} (run again with --debug for the traceback)", 1


def _common_options(packages: tuple[str, ...]) -> list[Callable]:
    def print_versions(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
        if value:
            click.echo(json.dumps(versions(*packages)))
            ctx.exit()

    return [
        click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Seed of all random numbers."),
        click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to compute."),
        click.option(
            "--threads",
            type=click.IntRange(1),
            help="Most threads to use; small data are worked on with fewer.",
            show_default="OMP_NUM_THREADS, else all this process may use",
        ),
        click.option("--verbose", "verbosity", flag_value="DEBUG", help="Say more.", show_default=False),
        click.option("--quiet", "verbosity", flag_value="WARNING", help="Say less.", show_default=False),
        click.option("--normal", "verbosity", flag_value="INFO", default="INFO", hidden=True),
        click.option("--debug", is_flag=True, help="Show the traceback of an error.", show_default=False),
        click.option(
            "--version",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=print_versions,
            help="Print versions as JSON and exit.",
            show_default=False,
        ),
    ]


def _usual_threads() -> int:
    """Threads of a run without --threads: what the environment says, else as many as there are."""
    # OpenMP takes a list, with a number for each level of nesting
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else len(os.sched_getaffinity(0))


def limit_threads_early() -> None:
    """Tell the numerical libraries what the command line says, for a program that imports numpy before it is parsed."""
    arguments = " ".join(sys.argv[1:]).replace("=", " ").split()
    stated = dict(itertools.pairwise(arguments)).get("--threads", "")
    _limit_threads(int(stated) if stated.isdecimal() and int(stated) else _usual_threads(), stated=stated.isdecimal())


def _limit_threads(threads: int, stated: bool) -> None:
    """Tell the numerical libraries, before the first of them is imported; unless `stated`, the environment wins."""
    # the last is XLA's
    for variable in (*(f"{name}_NUM_THREADS" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA", "NUMEXPR")), "PJRT_NPROC"):
        # numba takes another number, once it runs, for an error
        if (stated or not os.environ.get(variable)) and (variable[:5] != "NUMBA" or "numba" not in sys.modules):
            os.environ[variable] = str(threads)
    for variable, value in PATIENCE.items():
        os.environ.setdefault(variable, value)
    # one thread of its pool would still split what it computes
    if threads == 1:
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")


def _use_writable_cache() -> None:
    """Give numba a copy of its cache where that cannot be written to, as in an image that is mounted read-only.

    numba then refuses to compile instead of doing without, and with it UMAP to be imported.
    """
    cache = os.environ.get("NUMBA_CACHE_DIR")
    if not cache or "numba" in sys.modules or _writable(Path(cache)):
        return
    copy = tempfile.mkdtemp(prefix="unbatch-numba-")
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    if Path(cache).is_dir():
        shutil.copytree(cache, copy, dirs_exist_ok=True)
    os.environ["NUMBA_CACHE_DIR"] = copy


def _writable(folder: Path) -> bool:
    """Whether a folder is there, or can be made, and takes files; access rights say nothing of a read-only mount."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def progress(items: Iterable[Any], label: str, name: Callable[[Any], str] = str) -> Iterator[Any]:
    """Iterate with a progress bar on a terminal and a line per item in a log."""
    items = list(items)
    if sys.stderr.isatty() and log.isEnabledFor(logging.INFO):
        with click.progressbar(
            items, label=label, item_show_func=lambda i: safe_text(name(i)) if i else "", file=sys.stderr
        ) as bar:
            yield from bar
        return
    for number, item in enumerate(items, 1):
        start = time.perf_counter()
        yield item
        log.info("%s %d/%d: %s (%.1f s)", label, number, len(items), name(item), time.perf_counter() - start)


class _SafeFormatter(logging.Formatter):
    """Makes every message safe, as names from outside can be in any of them."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return safe_text(super().formatMessage(record))
