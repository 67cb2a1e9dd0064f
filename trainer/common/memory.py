"""How this process' memory is managed."""

import ctypes

MEGABYTE = 1 << 20
# Of malloc.h: what is free at a heap's end and kept, what is asked for at once beyond the need,
# and the size from which a block comes from the system and goes back to it (32 MB at most).
GLIBC_PARAMETERS = {-1: 2047 * MEGABYTE, -2: 64 * MEGABYTE, -3: 32 * MEGABYTE}


def keep_for_reuse():
    """Lets freed memory be used again, instead of handing it back to the system.

    Batches are large. By default glibc returns each one's memory and then gets it anew page by
    page, zeroed by the system: a quarter of the time that reading frames takes. Where the C library
    is another one, nothing changes.
    """
    set_parameter = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_parameter:
        for parameter, value in GLIBC_PARAMETERS.items():
            set_parameter(parameter, value)
