"""The output `[hook]`: each change goes to a shell command, to a web address, or to both.

A command needs the standard library alone. httpx and TLS are imported only for an address. No secret appears in an
error.
"""
