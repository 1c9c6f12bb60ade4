"""The run folder: its files and versions, whether it may be made or resumed, its lock and log, its page for people, and
the errors of a full disk or memory. No training.
"""
