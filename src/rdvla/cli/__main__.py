"""`python -m rdvla.cli` is the same as `rdvla`."""

import sys

from rdvla.cli import main

sys.exit(main())
