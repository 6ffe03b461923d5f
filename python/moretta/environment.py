"""The environment variables that moretta reads, all of them; no other module looks at the environment.

``MORETTA_<SECTION>__<KEY>`` sets one key of the configuration, deeper sections in the same way:
``MORETTA_LIMITS__MAX_TUNNELS=100``, ``MORETTA_LISTEN__MAIN__ADDRESS='["127.0.0.1:4433"]'``; a key of the top level
stands alone: ``MORETTA_PROFILE=interop``. The value is read as TOML, and as a plain string where it is none.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "MORETTA_"

#: Variables that are no setting of the gateway, and what they mean.
OTHERS = {
    "MORETTA_CONFIG": "the configuration file, where no --config is given",
    "MORETTA_GATEWAY": "the gateway's origin or URI template for the client verbs, where none is given",
    "MORETTA_CA": "the file of trusted authorities for the client verbs, where no --ca is given",
}


def variables() -> Mapping[str, str]:
    """Return this process's environment."""
    return os.environ  # noqa: TID251 -- the one place


def settings(environment: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return the variables that name settings, each with the path of its key in lower case."""
    return {
        name: tuple(part.lower() for part in name.removeprefix(PREFIX).split("__"))
        for name in sorted(environment)
        if name.startswith(PREFIX) and name not in OTHERS
    }
