"""Prints a command of README.md, so that CI runs exactly the commands that users read there.

Usage: python3 tools/readme_command.py demo|test

The command is the first fenced block after the line `<!-- command: NAME -->`.
"""

import re
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def command(name: str, readme: str) -> str:
    """The text of the block after a marker.

    Raises:
        SystemExit: README has no such block.
    """
    match = re.search(rf"^<!-- command: {re.escape(name)} -->\s*\n```\w*\n(.*?)\n```", readme, re.MULTILINE | re.DOTALL)
    if match is None:
        raise SystemExit(f"README.md: no fenced block after '<!-- command: {name} -->'")
    return match[1]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    print(command(sys.argv[1], README.read_text(encoding="utf-8")))
