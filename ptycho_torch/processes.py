"""Several processes that work on one scan together: each its share of the frames, and sums over all of them.

They are started here (:func:`started`), or by a launcher such as `torchrun` or `srun` (:func:`together`).
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from ptycho import launch

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """What one of several processes does of a common work; by default there is one, and it does all.

    Attributes:
        number: of this process, from 0.
        of: how many there are.
    """

    number: int = 0
    of: int = 1

    def mine(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of a list of pieces of work, every piece being in one part."""
        return items[self.number :: self.of]

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place; every process gets it. All must ask for it in the same order."""
        if self.of > 1:
            torch.distributed.all_reduce(torch.view_as_real(values) if values.is_complex() else values)
        return values

    def common(self, value: T) -> T:
        """What the first process has, which every process gets. All must ask for it in the same order."""
        if self.of == 1:
            return value
        held: list[Any] = [value if self.number == 0 else None]
        torch.distributed.broadcast_object_list(held, 0)
        found: T = held[0]
        return found


def now() -> Share:
    """The share of this process in what is going on; all of it where no others take part."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return Share(torch.distributed.get_rank(), torch.distributed.get_world_size())
    return Share()


@contextlib.contextmanager
def together(device: str) -> Iterator[Share]:
    """The group of all processes that a launcher has started; without a launcher this one is alone.

    Args:
        device: torch's name; "cuda" takes one device of the node per process.
    """
    here = launch.place()
    if here.of == 1 or now().of > 1:
        yield now()
        return
    if "MASTER_ADDR" not in os.environ:  # torchrun says where they meet, srun lets it be worked out
        host, port = launch.slurm_meeting()
        os.environ.update(MASTER_ADDR=host, MASTER_PORT=str(port))
    if device == "cuda":
        torch.cuda.set_device(here.on_node)
    with _group(Share(here.number, here.of), "env://", device) as share:
        yield share


@contextlib.contextmanager
def started(n: int, helper: Callable[..., None], arguments: tuple[Any, ...], device: str) -> Iterator[Share]:
    """Start n - 1 processes that run ``helper(share, *arguments)``, and give this one its own share of the work.

    The processor's threads are divided among them. All go together: when this one leaves, the others have ended.

    Args:
        n: processes in all; 1 starts none.
        helper: a function of a module, and arguments that can be pickled.
        arguments: see above.
        device: torch's name; "cuda" takes one device per process.

    Raises:
        RuntimeError: of torch, where one of the processes failed.
    """
    if launch.place().of > 1:  # they are there already
        with together(device) as share:
            yield share
        return
    if n == 1:
        yield Share()
        return
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="ptychopinn_") as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        each = max(1, threads // n)
        context = spawn(
            _run, (n, meeting, each, device, helper, arguments), nprocs=n - 1, join=False
        )
        try:
            with _joined(Share(0, n), meeting, each, device) as share:
                yield share
            while not context.join():
                pass
        finally:
            torch.set_num_threads(threads)
            for process in context.processes:
                if process.is_alive():
                    process.terminate()


def _run(
    index: int, n: int, meeting: str, threads: int, device: str, helper: Callable[..., None], arguments: tuple[Any, ...]
) -> None:  # fmt: skip
    with _joined(Share(index + 1, n), meeting, threads, device) as share:
        helper(share, *arguments)


@contextlib.contextmanager
def _joined(share: Share, meeting: str, threads: int, device: str) -> Iterator[Share]:
    """Member of the group of processes that meet at a file."""
    torch.set_num_threads(threads)
    if device == "cuda":
        torch.cuda.set_device(share.number)
    with _group(share, meeting, device):
        yield share


@contextlib.contextmanager
def _group(share: Share, meeting: str, device: str) -> Iterator[Share]:
    """The group, for as long as it lasts."""
    backend = "nccl" if device == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, init_method=meeting, rank=share.number, world_size=share.of)
    try:
        yield share
    finally:
        torch.distributed.destroy_process_group()
