"""The lower bounds of setup.cfg as exact versions, for `make test-lowest`.

    python tests/lowest.py           what an installation needs, and what the tests run with
    python tests/lowest.py deploy    and these extras

Only a bound of the form `name>=version` becomes exact; other demands stay as they are.
"""

from __future__ import annotations

import configparser
import re
import sys
from pathlib import Path

TESTS = ("pytest", "pytest-xdist", "hypothesis", "selenium")
"""Of the extra `dev`; the other tools look at the code, not at what it needs."""


def exact(requirement: str) -> str:
    """`torch>=2.6` as `torch==2.6`."""
    return re.sub(r"^([\w.-]+)>=", r"\1==", requirement)


def requirements(extras: list[str]) -> list[str]:
    parser = configparser.ConfigParser()
    parser.read(Path(__file__).parents[1] / "setup.cfg")
    known = parser["options.extras_require"]
    lines = parser["options"]["install_requires"].split("\n")
    for extra in extras:
        lines += known[extra].split("\n")
    lines += [line for line in known["dev"].split("\n") if re.split("[>=]", line)[0] in TESTS]
    return [exact(line.strip()) for line in lines if line.strip()]


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1:])))
