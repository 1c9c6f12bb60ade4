"""The listener as a systemd service: install, update, rollback, remove, status.

`unit_files` holds the unit and its companions, `versions` the models. systemd is used only through `systemd`, so that
tests need none. No torch; nothing here prints.
"""
