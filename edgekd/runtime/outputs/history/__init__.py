"""The output `[history]`: an SQLite database of the labels shown over time, and `edgekd history`, which reads it.

Standard library alone. Writing happens in a thread of its own; reading works while a listener writes.
"""
