"""The output `[hook]`: each change goes to a shell command, to a web address, or to both.

Standard library alone. HTTP and TLS are imported only for an address. No secret appears in an error.
"""
