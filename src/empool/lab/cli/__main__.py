"""`python -m empool.lab.cli`: the command where its script is not on the path, as under torchrun."""

import sys

from empool.lab.cli import main

sys.exit(main())
