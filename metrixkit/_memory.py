"""Memory that is freed and asked for again at once: kept by the process, not handed back to the system.

glibc maps large blocks anew at every request and returns them when they are freed. On a processor each training step,
and each batch that is embedded, allocates the same gigabytes of feature maps again, and the system zeroes and faults in
every page of them, which may take as long as the arithmetic (``benchmarks/step_memory.py``).
"""

from __future__ import annotations

import ctypes
import os
import sys

# From malloc.h. mallopt takes an int, of which -1 stands for no limit at trimming.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_SETTINGS = ((_M_MMAP_THRESHOLD, 2**31 - 1), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, 64 * 2**20))


def keep_freed_memory() -> bool:
    """Have glibc serve large blocks from its heap and keep what is freed there.

    The process then holds the peak of its memory until it ends. Whoever has chosen otherwise (``MALLOC_...``,
    ``GLIBC_TUNABLES``, another allocator in ``LD_PRELOAD``) is left alone.

    Returns:
        Whether it was set; False where there is no glibc or the environment chose.
    """
    chosen = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")) for name in os.environ)
    if chosen or not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return all([library.mallopt(name, value) for name, value in _SETTINGS])
