"""`python -m ptycho_torch.train`: the older entry point of training; see :mod:`ptycho_torch.cli.train`."""

from __future__ import annotations

import sys

__all__ = ["cli_main"]


def cli_main() -> None:
    """Train as ``sys.argv`` says.

    Raises:
        SystemExit: 1 after a message on standard error; nothing else leaves.
    """
    from ptycho.cli.mistakes import run_to_exit
    from ptycho_torch.cli.train import PROGRAM, train

    run_to_exit(train, sys.argv[1:], PROGRAM)


if __name__ == "__main__":
    cli_main()
