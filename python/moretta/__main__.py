"""`python -m moretta` is `moretta`."""

import sys

from moretta.cli import main

sys.exit(main())
