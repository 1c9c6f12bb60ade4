"""The first process of a container (PID 1). It gets all processes whose parent has ended, and has to wait for them:
otherwise they stay as zombies. So a child does the work, and the first process does what an init does.

Only the first process waits for strangers. The child waits for what it has started and for nothing else, so that no
exit status is lost.
"""

import os
import signal

PASSED_ON = frozenset(
    {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT}
)
"""Signals that go to the child."""
FROM_TERMINAL = frozenset({signal.SIGINT, signal.SIGQUIT})
"""Signals that a terminal sends to the child, too."""
SIGNALLED = 128
"""Plus the number of a signal: exit status of a shell for what the signal ends."""


def leave_first_process() -> None:
    """Continue in a child where this is the first process; return at once where it is not."""
    if os.getpid() == 1:
        continue_in_child()


def continue_in_child() -> None:
    """Return in a child of this process. This process passes signals on, waits for all processes that are left to it,
    and ends as the child does."""
    waited_for = PASSED_ON | {signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited_for)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    while True:
        received = signal.sigwaitinfo(waited_for)
        if received.si_signo == signal.SIGCHLD:
            _wait_for_all(child)
        elif received.si_code <= 0 or received.si_signo not in FROM_TERMINAL:  # above 0: the system sends it
            os.kill(child, received.si_signo)


def _wait_for_all(child: int) -> None:
    """Wait for every process that has ended. Ends this process if the child is one of them."""
    while True:
        number, status = os.waitpid(-1, os.WNOHANG)
        if number == 0:
            return
        if number == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else SIGNALLED - code)
