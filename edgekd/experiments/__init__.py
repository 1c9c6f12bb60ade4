"""Experiments of many training runs: cross-validation, sweeps, published tables, and a time budget for them.

A plan lists the runs, jobs train each in a process of its own, and tables and intervals are computed from the
predictions that finished runs have kept. No training loop and no new metric belongs here, and nothing here prints.
"""
