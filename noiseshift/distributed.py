"""Several processes that share one job, as `torchrun -m noiseshift …` starts them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


def joined() -> tuple[int, int]:
    """(rank, number of ranks): (0, 1) unless torchrun started this process, whose group is then joined once.

    nccl where there is a GPU for every process of this machine, gloo otherwise.
    """
    if "LOCAL_RANK" not in os.environ:
        return 0, 1
    import torch
    from torch import distributed

    if not distributed.is_initialized():
        gpus = torch.cuda.device_count() >= int(os.environ["LOCAL_WORLD_SIZE"])
        distributed.init_process_group("nccl" if gpus else "gloo")
    return distributed.get_rank(), distributed.get_world_size()


def own_device(device: str) -> str:
    """`cuda` is this rank's own GPU; anything else is what it says."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" and "LOCAL_RANK" in os.environ else device


def share(batch: int) -> slice:
    """This rank's rows of a batch that all ranks draw alike. Raises ValueError when they cannot share it evenly."""
    rank, world = joined()
    if batch % world:
        raise ValueError(f"{world} processes cannot share batches of {batch}: make --batch a multiple of {world}")
    return slice(rank, None, world)


def parallel(network: nn.Module) -> nn.Module:
    """The network with its gradients averaged over all ranks; itself, where there is one."""
    if joined()[1] == 1:
        return network
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(network)


def mean(value: Tensor) -> Tensor:
    """The mean over ranks of a tensor that all of them have, without its gradient."""
    world = joined()[1]
    value = value.detach().clone()
    if world == 1:
        return value
    from torch import distributed

    distributed.all_reduce(value)
    return value / world


def first(value: Any) -> Any:
    """The first process's `value`, in all of them; it must be one that can be pickled."""
    if joined()[1] == 1:
        return value
    import torch
    from torch import distributed

    gpu = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if distributed.get_backend() == "nccl" else None
    held = [value]
    distributed.broadcast_object_list(held, src=0, device=gpu)
    return held[0]


def wait() -> None:
    """Until all ranks are here."""
    if joined()[1] > 1:
        from torch import distributed

        distributed.barrier()


def leave() -> None:
    """Close the group, where there is one."""
    if "LOCAL_RANK" not in os.environ:
        return
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()
