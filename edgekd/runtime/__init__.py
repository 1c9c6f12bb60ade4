"""Listening on a device: samples of a live source or a file in, decisions out.

`listen` makes the decisions, `decision` keeps them steady, `source` reads samples, and `outputs` passes decisions on.
Recording, replay, the checks of `edgekd doctor` and the messages to systemd are here too. numpy and one engine are
enough; no torch. Library functions return or yield; only the command line prints.
"""
