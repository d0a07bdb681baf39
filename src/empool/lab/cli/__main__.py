"""`python -m empool.lab.cli`: the command where its script is not on the path, as under torchrun."""

import sys

from empool.lab.cli import main
from empool.lab.train.processes import until_left

sys.exit(until_left(main))
