"""`python -m vcm`: the same as the command `vcm`."""

import sys

from vcm.cli.main import main

sys.exit(main())
