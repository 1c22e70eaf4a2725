"""Facts about this CPU that decide which kernel is fastest."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def onednn_beats_mkl() -> bool:
    """Whether float32 products are faster in oneDNN than in MKL here: x86 with AVX-512 that is not Intel's.

    MKL runs AVX2 code on other vendors' processors; oneDNN asks the processor what it can do. The answer depends on
    the machine alone, never on a measurement, so that equal runs stay equal.
    """
    if not torch.backends.mkldnn.is_available() or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    if "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return False
    try:
        vendor = Path("/proc/cpuinfo").read_text().split("vendor_id", 1)[1].split("\n", 1)[0]
    except (OSError, IndexError):
        vendor = platform.processor()
    return "GenuineIntel" not in vendor
