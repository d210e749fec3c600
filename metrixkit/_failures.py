"""What goes wrong outside the package, as sentences: a full disk, no memory, a reader that left, Ctrl-C."""

from __future__ import annotations

from dataclasses import dataclass

from metrixkit.errors import InputError
from metrixkit.files import advice

BAD_INPUT, INTERRUPTED, BROKEN_PIPE = 2, 130, 141  # the last two as a shell counts SIGINT and SIGPIPE
_NO_MEMORY = (
    "lower sampler.batch_size, evaluation.batch_size or --batch-size, model.image_size or loader.workers, or use "
    "training.precision=bf16."
)
# What libraries say in a RuntimeError, and what can be done.
_SIGNS = (
    (("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED"), _NO_MEMORY),
    (("Too many open files",), "raise the limit on open files (ulimit -n), or lower loader.workers."),
    (
        ("shared memory", "Bus error", "torch_shm_manager"),
        "the shared memory of the workers (/dev/shm) is full: lower loader.workers, or give a container more of it.",
    ),
    (("worker (pid", "exited unexpectedly"), "a loader's worker was killed, mostly for memory: lower loader.workers."),
)


@dataclass(frozen=True)
class Failure:
    """What a door says and returns.

    Attributes:
        status: The exit status.
        words: A sentence for standard error, or "" for none.
    """

    status: int
    words: str = ""


def failure(error: BaseException, interrupted: bool = False) -> Failure | None:
    """Return how a door answers an error, or None for one that is a bug and needs its traceback.

    Args:
        error: What was raised.
        interrupted: Whether an interrupt came before: an import that is interrupted may end as any error.
    """
    if isinstance(error, SystemExit):
        return None
    if interrupted or any(isinstance(link, KeyboardInterrupt) for link in _chain(error)):
        return Failure(INTERRUPTED, "interrupted")
    if isinstance(error, InputError):
        return Failure(BAD_INPUT, str(error))
    if isinstance(error, BrokenPipeError) and error.filename is None:
        return Failure(BROKEN_PIPE)  # `metrixkit compare ... | head`: who read has seen enough
    if isinstance(error, OSError):
        return Failure(BAD_INPUT, _refused(error))
    if isinstance(error, ValueError) and str(error).startswith("embedded null"):
        return Failure(BAD_INPUT, "the name of a file or folder holds a NUL character, and no name can.")
    if isinstance(error, MemoryError):
        return Failure(BAD_INPUT, f"out of memory ({_last_line(error)}); {_NO_MEMORY}")
    if isinstance(error, RuntimeError):
        text = str(error)
        for signs, mend in _SIGNS:
            if any(sign in text for sign in signs):
                return Failure(BAD_INPUT, f"{_last_line(error)[:300]} -- {mend}")
    return None


def _refused(error: OSError) -> str:
    """Return what the operating system refused, on which file, and what to do."""
    what = error.strerror or _last_line(error)
    where = f"{error.filename}: " if error.filename is not None else ""
    mend = advice(error)
    return f"{where}{what}" + (f"; {mend}." if mend else "")


def _last_line(error: BaseException) -> str:
    """Return an error's message; of one that a loader's worker wrapped in its traceback, the message alone."""
    text = str(error).strip()
    if text.startswith("Caught ") and "Original Traceback" in text:
        text = text.splitlines()[-1].partition(": ")[2]
    return (text.splitlines() or [type(error).__name__])[0]


def _chain(error: BaseException) -> list[BaseException]:
    links: list[BaseException] = []
    seen: BaseException | None = error
    while seen is not None and seen not in links:
        links.append(seen)
        seen = seen.__cause__ or seen.__context__
    return links
