"""The place of this process among those that a launcher (`torchrun`, `srun`) has started for one run."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from ptycho.errors import InputError

__all__ = ["Place", "place", "refuse_unknown_launcher", "slurm_meeting"]


class Place(NamedTuple):
    """number: of this process, from 0; the first one alone writes and prints. of: how many there are.
    on_node, per_node: the same among those of its node.
    """

    number: int = 0
    of: int = 1
    on_node: int = 0
    per_node: int = 1

    @property
    def nodes(self) -> int:
        """How many nodes take part."""
        return self.of // self.per_node


def place() -> Place:
    """As the environment says it; without a launcher a process is alone.

    Raises:
        InputError: nodes with different numbers of processes.
    """
    known = os.environ
    if "TORCHELASTIC_RUN_ID" in known:
        names = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        found = Place(*(int(known.get(name, default)) for name, default in names.items()))
    elif int(known.get("SLURM_STEP_NUM_TASKS") or "1") > 1:
        of, nodes = int(known["SLURM_STEP_NUM_TASKS"]), int(known.get("SLURM_STEP_NUM_NODES") or "1")
        number, on_node = int(known["SLURM_PROCID"]), int(known.get("SLURM_LOCALID") or "0")
        found = Place(number, of, on_node, of // nodes if of % nodes == 0 else 0)
    else:
        return Place()
    if found.per_node < 1 or found.of % found.per_node:
        raise InputError(
            f"found {found.of} processes on nodes that do not have equally many, expected the same number on each. "
            "State it to the launcher (torchrun --nproc-per-node, srun --ntasks-per-node)."
        )
    return found


def slurm_meeting() -> tuple[str, int]:
    """Host and port at which the processes of a SLURM job meet: its first node, and a port by the number of the job."""
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_NODELIST") or "127.0.0.1"
    # of node[03-05,08] or node[3-4],other the first
    host = re.sub(r"\[(\w+)[^\]]*\]", r"\1", nodes).split(",")[0]
    job = os.environ.get("SLURM_JOB_ID", "0")
    return host, int(os.environ.get("MASTER_PORT") or 15000 + int(job[-4:]))


def refuse_unknown_launcher() -> None:
    """InputError where another launcher has started several processes: each of them would write the results."""
    world = os.environ.get("WORLD_SIZE", "1")
    if world not in ("", "1") and place().of == 1:
        raise InputError(
            f"WORLD_SIZE={world}: found one of several processes of a launcher that is not known, expected torchrun or "
            f"srun. Use one of them, or start one process and say --devices {world}."
        )
