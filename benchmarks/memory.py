# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""The memory that this process takes, as Linux counts it."""

from pathlib import Path


def resident_memory(name):
    """Returns the bytes that this process takes: now with the name `VmRSS`, and at its peak with `VmHWM`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def peak_memory_of(work):
    """Returns the bytes that this process takes at the peak of `work()` above what it takes before."""
    before = resident_memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now on, without what was built before
    work()
    return resident_memory("VmHWM") - before
