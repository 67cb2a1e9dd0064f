"""Memory allocation of this process."""

import ctypes

MEGABYTE = 1 << 20
# Parameters of mallopt(3): M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD (at most 32 MB).
GLIBC_PARAMETERS = {-1: 2047 * MEGABYTE, -2: 64 * MEGABYTE, -3: 32 * MEGABYTE}


def keep_for_reuse():
    """Make glibc reuse freed memory instead of returning it to the system.

    Batches are large. By default, glibc returns the memory of each batch and requests it again,
    page by page and zeroed by the system, which takes a quarter of the time of reading frames. With
    another C library, nothing changes.
    """
    set_parameter = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_parameter:
        for parameter, value in GLIBC_PARAMETERS.items():
            set_parameter(parameter, value)
