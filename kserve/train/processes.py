"""One process, or the several that torchrun started: who is first, and what they must agree on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

# Others wait this long for the first process, which prepares the text and validates alone.
PATIENCE = timedelta(hours=6)


@dataclass(frozen=True)
class Processes:
    """This process's number among those that train together, and its device."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and speaks."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            distributed.barrier()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return flag if self.count == 1 else bool(self.sum(torch.tensor([float(flag)]))[0] > 0)

    def sum(self, numbers: Tensor) -> Tensor:
        """Numbers added up over the processes."""
        if self.count == 1:
            return numbers
        total = numbers.to(self.device)
        distributed.all_reduce(total)
        return total.to(numbers.device)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model whose gradients are averaged over the processes."""
        if self.count == 1:
            return model
        return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes that torchrun started, or be the only one."""
    cuda = torch.cuda.is_available()
    if not distributed.is_torchelastic_launched():
        yield Processes(0, 1, torch.device("cuda" if cuda else "cpu"))
        return
    distributed.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    device = torch.device("cuda", distributed.get_node_local_rank()) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size(), device)
    finally:
        distributed.destroy_process_group()
