"""The run folder: its files and versions, whether it may be made or resumed, its page for people, and the errors of a
full disk or memory. No training.
"""
