"""Several processes that train one network together, as torchrun or Slurm starts them."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # Importing it takes seconds, and whether to show progress is asked before.
    from torch import Tensor, nn


wrapped: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # networks, by which a group's end would be held up


@dataclass(frozen=True)
class Processes:
    """Those that were started together, and which of them this is."""

    rank: int = 0  # of this one; the first, 0, alone writes and prints
    count: int = 1  # of all
    local_rank: int = 0  # of this one among those of its node; also the number of its GPU

    def tell(self, what: Any) -> Any:
        """Give to all what the first of them gives; all must call this."""
        told = [what]
        if self.count > 1:
            _distributed().broadcast_object_list(told)
        return told[0]

    def any(self, here: bool) -> bool:
        """Tell whether something is so in one of them; all must call this."""
        if self.count == 1:
            return here
        import torch

        processes = torch.tensor(float(here))
        self.add_up(processes)
        return bool(processes)

    def add_up(self, sums: Tensor) -> None:
        """Replace a tensor by its sum over all processes."""
        if self.count > 1:
            _distributed().all_reduce(sums)

    def share_buffers(self, network: nn.Module) -> None:
        """Give to all the buffers of the first: the running means of batch normalisation differ, each of its share."""
        for buffer in network.buffers() if self.count > 1 else ():
            _distributed().broadcast(buffer, 0)


ALONE = Processes()


def started() -> Processes:
    """Read from the environment what torchrun or `srun` wrote into it."""
    for names in (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")):
        if all(name in os.environ for name in names):
            return Processes(*(int(os.environ[name]) for name in names))
    return ALONE


@contextmanager
def joined() -> Iterator[Processes]:
    """Connect the processes that were started together: by gloo, and tensors on GPUs by NCCL.

    A process that fails doesn't take leave of the others, who may be waiting for it: they notice when it ends.
    """
    these = started()
    if these.count == 1:
        yield these
        return
    import torch
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from torch import distributed

    if "RANK" not in os.environ:  # Slurm says who they are, but not where they meet.
        slurm = SLURMEnvironment()
        os.environ.update(MASTER_ADDR=slurm.main_address, MASTER_PORT=str(slurm.main_port))
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(these.local_rank)
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, rank=these.rank, world_size=these.count)
    failed = True
    try:
        yield these
        failed = False
    except SystemExit:  # It did its share for another, and takes leave as that one does.
        failed = False
        raise
    finally:
        # Whoever keeps a wrapped network beyond the group's end would hold the group by its reducer. Freeing that waits
        # for gloo's threads without giving up the interpreter's lock, which these may be waiting for; or they end the
        # process.
        for wrapper in wrapped:
            vars(wrapper).update(reducer=None, logger=None, process_group=None)
        if not failed:
            distributed.destroy_process_group()


def until_left(main: Callable[[], int]) -> int:
    """Run a program, and return its exit code; one of several processes ends there and then.

    The interpreter's own end may wait for threads that talk to the others, and they for it.
    """
    if started().count == 1:
        return main()
    code = 1
    try:
        code = main()
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def is_parting(error: RuntimeError) -> bool:
    """Tell whether an error says that another of the processes is gone."""
    return isinstance(error, _distributed().DistError) or "gloo" in str(error)


def connected() -> Processes:
    """Give the processes that `joined` connected; one, outside of its context."""
    return started() if _distributed().is_available() and _distributed().is_initialized() else ALONE


def _distributed() -> Any:
    return importlib.import_module("torch.distributed")
