"""The command line, by subject: `data`, `train`, `model` and `device` hold the commands.

A command imports what it needs inside, calls one function of the package, and prints. It holds no logic, and nothing
imports it. `root` is what the commands share, `options` makes the options of `listen` from its configuration, `entry`
runs a command line and turns errors into exit statuses. Before that `init` does what the first process of a container
has to do, and `streams` sees to closed standard streams.
"""

from edgekd.cli.entry import main, run
from edgekd.cli.root import app

__all__ = ["app", "main", "run"]
