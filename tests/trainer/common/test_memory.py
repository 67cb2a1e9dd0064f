"""Freed memory stays with the process."""

import os
import subprocess
import sys

import pytest

# Frees blocks of 16 MB that lie side by side; prints how much the process then holds, in MB.
SCRIPT = """
import ctypes, resource, sys
from trainer.common import memory

if sys.argv[1] == "keep":
    memory.keep_for_reuse()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
blocks = [libc.malloc(16 << 20) for _ in range(8)]
for block in blocks:
    ctypes.memset(block, 1, 16 << 20)
for block in blocks:
    libc.free(ctypes.c_void_p(block))
pages = int(open("/proc/self/statm").read().split()[1])
print(pages * resource.getpagesize() // 2**20)
"""


def megabytes_held(how: str) -> int:
    command = [sys.executable, "-c", SCRIPT, how]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(
    "CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="the C library is not glibc"
)
def test_freed_memory_is_kept():
    assert megabytes_held("keep") > megabytes_held("") + 100
