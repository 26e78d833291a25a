# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Ends several processes that work together."""

import gc

import torch
from torch.nn.parallel import DistributedDataParallel


def end_process_groups(backends=None):
    """
    Ends the groups of processes that exchange tensors, with their threads, if they are of one of the `backends`.

    A thread of gloo frees the tensors of its last exchange at some later time. If the interpreter has ended by then, as may
    happen on a busy machine, this aborts the process. torch ends the threads only when nothing refers to their group anymore.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    if backends is not None and torch.distributed.get_backend() not in backends:
        return
    # Kept until the end of this function: a DistributedDataParallel that is the last to drop its group waits for the threads,
    # and holds the lock of the interpreter meanwhile, for which the threads wait
    groups = [each.process_group for each in gc.get_objects() if issubclass(type(each), DistributedDataParallel)]
    torch.distributed.destroy_process_group()
    gc.collect()  # Trainer and its model refer to each other, and to the groups
    del groups
