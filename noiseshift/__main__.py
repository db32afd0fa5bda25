"""`python -m noiseshift` and `torchrun -m noiseshift`: the command line.

`-m` puts the working directory first on the path, where a `torch.py` or `click.py` of the user's would be imported in place of
the library. The installed command does not do that, and neither is it done here.
"""

import os
import sys
from pathlib import Path


def forget_working_directory() -> None:
    """Take the working directory's entry off the path, unless this package itself was found through it. One that was deleted holds
    nothing."""
    try:
        here, ours = os.path.realpath(os.getcwd()), os.path.realpath(Path(__file__).parent.parent)
    except FileNotFoundError:
        return
    if sys.path and here != ours and os.path.realpath(sys.path[0] or ".") == here:
        del sys.path[0]


if __name__ == "__main__":
    forget_working_directory()

    from noiseshift.cli import main

    main(prog_name="noiseshift")
