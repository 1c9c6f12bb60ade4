"""Where decisions go besides standard output: `[web]`, `[mqtt]`, `[hook]`, `[history]`, `[clips]`, the terminal view.

Each output follows the protocol in `base`: it never delays the stream and never raises, but reports its error. An
output is imported only when the configuration turns it on.
"""
