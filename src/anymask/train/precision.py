"""Number formats of training: fp32, or bf16 (autocast; the weights and the optimiser stay fp32)."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from .errors import TrainError

# Below this width casting costs more on a CPU than the faster products win. Steps of mae at a batch of 64 on one core
# with AVX-512 BF16: width 32 0.9 times as fast in bf16, 64 1.1 times, 96 1.6 times, 192 (32 pixels) 2.8 times.
NARROWEST = 96

LIGHTNING = {"fp32": "32-true", "bf16": "bf16-mixed"}


def choose(asked: str, width: int) -> tuple[str, str]:
    """("fp32" or "bf16", why).

    "auto" takes bf16 where hardware multiplies it faster: CUDA with bf16; CPUs that `multiplies_bf16`, if the model is
    at least `NARROWEST` wide.
    """
    if asked in LIGHTNING:
        return asked, "as asked"
    if asked in ("fp16", "float16", "16-mixed", "16"):
        raise TrainError(
            "fp16 overflows above 65504 and would need loss scaling, whose state changes with the hardware; "
            "use --precision bf16 (as fast, with the range of fp32) or fp32"
        )
    if asked != "auto":
        raise TrainError(f"precision is auto, bf16 or fp32, not {asked!r}")
    if torch.cuda.is_available():
        return ("bf16", "the GPU has it") if torch.cuda.is_bf16_supported() else ("fp32", "the GPU has no bf16")
    if torch.backends.mps.is_available():
        return "fp32", "Apple GPUs win little from bf16"
    if not multiplies_bf16():
        return "fp32", "the CPU has no fast bf16 products"
    if width < NARROWEST:
        return "fp32", f"bf16 gains nothing at width {width} on a CPU"
    return "bf16", "the CPU has fast bf16 products"


def multiplies_bf16() -> bool:
    """Whether this CPU multiplies bf16 faster than fp32; False where the system does not say (no /proc/cpuinfo).

    With AMX it does, and with AVX-512 BF16 on AMD's. Intel's AVX-512 BF16 (a virtual machine may hide AMX) does half as
    many products a second as fp32: 170 against 330 GFLOP/s on two cores of an Emerald Rapids. Never a measurement, so
    that equal runs stay equal.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    flags = text.partition("\nflags")[2].partition("\n")[0].split()
    return "amx_bf16" in flags or ("avx512_bf16" in flags and "GenuineIntel" not in text)
