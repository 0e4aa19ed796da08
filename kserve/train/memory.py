"""What the C library does with memory that training gives back."""

from __future__ import annotations

import ctypes
import sys

# Names and numbers of <malloc.h>, and the values that mean "never".
_M_TRIM_THRESHOLD, _NEVER_TRIM = -1, -1
_M_MMAP_MAX, _NEVER_MAP = -4, 0


def keep_freed_memory() -> None:
    """Let the process keep what it frees, where the C library is glibc.

    A step allocates the same hundreds of megabytes again and again. By default large pieces go back to the
    kernel at once, and every new one costs a page fault for each 4 KiB: a fifth of a step of a small model.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM)
        library.mallopt(_M_MMAP_MAX, _NEVER_MAP)
