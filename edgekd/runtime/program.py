"""What `edgekd listen` does from its configuration on: decisions of a source to outputs and lines, or a report on a
file. Nothing is printed here."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from edgekd.runtime import replay
from edgekd.runtime.config import Config, prepared, require_same_outputs
from edgekd.runtime.control import Configuration, Control, StoppedError, has_terminal
from edgekd.runtime.decision import ChangesOnly, to_json, to_text
from edgekd.runtime.listen import STANDARD_INPUT, listen
from edgekd.runtime.notify import notifier
from edgekd.runtime.outputs.opening import open_outputs
from edgekd.runtime.outputs.view import terminal_view


def run(read: Callable[[], Config], write: Callable[[str], None], warn: Callable[[str], None]) -> None:
    """Classify a source until it ends or a signal stops the program.

    Args:
        read: the configuration; called again for each reload.
        write: takes each line of the results.
        warn: takes lines for people.

    Raises:
        StoppedError: SIGINT ended it, or SIGTERM or a closed terminal a file before its end. Both are usual ends of a
            live source.
        OSError: a line cannot be written, for instance BrokenPipeError where its reader has gone.
        EdgekdError: the configuration, the model, the source or an output does not work.
    """
    config = read()
    if config.output.replay or config.output.track is not None:
        write(_replayed(config, warn))
        if (note := replay.ignored_outputs(config)) is not None:
            warn(note)
        return
    if config.web is not None:
        from edgekd.runtime.outputs.web.access import warning

        if (open_to_all := warning(config.web)) is not None:
            warn(open_to_all)
    systemd = notifier()

    def reload() -> Configuration:
        from edgekd.modelfile.verify import verify_model

        if systemd is not None:
            systemd.reloading()
        new = read()
        require_same_outputs(config, new)
        return prepared(new, lambda model, where: verify_model(model, where).require())

    to_line, changes = to_json if config.output.json else to_text, ChangesOnly()
    drawn = not (config.output.json or config.output.plain or config.output.changes)
    live = config.source.file in (None, STANDARD_INPUT)
    with (
        _usual_end(live),
        Control(reload, on_terminal=has_terminal()) as control,
        open_outputs(config, systemd) as outputs,
        contextlib.ExitStack() as drawing,
    ):
        view = terminal_view() if drawn else None
        if view is not None:
            drawing.enter_context(view)
        decisions = listen(
            config.source.file,
            config.model_file,
            engine=config.model.engine,
            threads=config.model.threads,
            hop_s=config.decision.hop,
            top=config.decision.top,
            live=config.request,
            settings=config.settings,
            control=control,
            observe=outputs.publish,
            watch=config.limits,
            status=outputs.status,
            equaliser=config.source.equaliser,
            warn=warn,
        )
        for decision in outputs.forward(decisions):
            if view is not None:
                view.show(decision)
            elif changes.is_new(decision) or not config.output.changes:
                write(to_line(decision))


@contextlib.contextmanager
def _usual_end(live: bool) -> Iterator[None]:
    """Nothing is wrong when SIGTERM or a closed terminal ends a live source."""
    try:
        yield
    except StoppedError as stop:
        if stop.number == signal.SIGINT or not live:
            raise


def _replayed(config: Config, warn: Callable[[str], None]) -> str:
    """The report on a file."""
    report = replay.replay(
        config.source.file,
        config.model_file,
        engine=config.model.engine,
        threads=config.model.threads,
        hop_s=config.decision.hop,
        settings=config.settings,
        track=None if config.output.track is None else Path(config.output.track),
        equaliser=config.source.equaliser,
        warn=warn,
    )
    return replay.to_json(report) if config.output.json else replay.to_text(report)
