"""Compiled kernels of the policy: plain arrays in, decisions out, no clock, randomness or I/O.

The same kernels serve the live core, one stimulus at a time, and the twin's compiled loop. With
``NUMBA_DISABLE_JIT=1`` they run as plain Python, which the differential tests use as their reference.
"""

from dure.policy.kernels.cache import use_kernel_cache

use_kernel_cache()
