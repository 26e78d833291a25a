# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""The memory that this process takes, as Linux counts it, or, on a GPU, as torch does."""

from pathlib import Path

import torch


def resident_memory(name):
    """Returns the bytes that this process takes: now with the name `VmRSS`, and at its peak with `VmHWM`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def peak_memory_of(work, device="cpu"):
    """Returns the bytes that this process takes on a device at the peak of `work()` above what it takes before."""
    if torch.device(device).type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() - before
    before = resident_memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now on, without what was built before
    work()
    return resident_memory("VmHWM") - before
