"""Arithmetic of training without subnormal numbers, those too small for a full mantissa."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["flushed_denormals"]


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Within the block a number below about 1e-38 counts as zero, on CPUs that can do that.

    The gradient of a unit that never fires is zero, so Adam's first moment of its weights falls by
    a tenth a step and is subnormal after some 750. A CPU takes many times longer for those: half of
    all time in steps 2 and 3. No weight is near such a size, so none changes by it. It holds for
    this thread, and for those that it starts in the block.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
