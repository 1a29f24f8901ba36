"""A training's process: what is set before the heavy imports, and how it ends."""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import importlib.metadata
import os
import socket
import sys

from icr.config.schema import Train


def prepare_process(train: Train) -> None:
    """Set what the heavy imports read, and import what every training needs.

    Python's cycle collector would take a fifth of the time that the thousands of modules take; what it would find
    among them is nothing.
    """
    gc.disable()
    # transformers and TRL each go over every installed package for this
    importlib.metadata.packages_distributions = functools.cache(importlib.metadata.packages_distributions)
    _set_environment(train)
    importlib.import_module("loops.trainers")
    gc.freeze()
    atexit.register(gc.unfreeze)  # libraries complain of what is left over in the end
    gc.enable()


def _set_environment(train: Train) -> None:
    import torch

    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    if train.deepspeed == "none":
        return
    if not torch.cuda.is_available():
        _lighten_deepspeed()
    if "RANK" not in os.environ:
        # DeepSpeed wants a process group, even of one
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        one = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in one.items()})


def _lighten_deepspeed() -> None:
    """Keep DeepSpeed on a processor from what costs seconds at every start and is not used."""
    import deepspeed.ops

    # it would compile (a minute, and with a compiler that may not be there) an all-reduce for inference
    deepspeed.ops.__compatible_ops__ = {}
    from deepspeed.runtime import compiler

    # it would import torch's compiler for the kernels of an optimiser (Muon) that it only asks the name of
    original, compiler.compile = compiler.compile, lambda: lambda function: function
    try:
        import deepspeed.runtime.zero.muon.muon_optimizer
    except ImportError:
        pass  # another version, which may not have it
    finally:
        compiler.compile = original


def leave(exit_handlers: bool) -> None:
    """End the process group and, where nobody needs its exit handlers (trackers do, in the first process), the process.

    There is nothing left to do, taking everything down takes a second, and native threads, torn down in whatever order,
    abort the process now and then, for which torchrun would end the others, too.
    """
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if not exit_handlers:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
