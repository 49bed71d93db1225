"""Kernels in C for CPUs with AVX-512: the bits of torch's own operators, at close to the machine's peak.

They are built with the package where a C compiler is at hand, and called through ctypes, which lets other threads run.
Where they are missing, everything goes on with torch's operators.
"""

from encodec_core.fast.native.shared_object import kernels, why_absent

__all__ = ["kernels", "why_absent"]
