"""Everything for task 1 of the DCASE challenge, 2022 to 2025: a model for each recorder, the files of a submission, and
their check.

Nothing outside this package and the command line imports it, so that it could be deleted as a whole. Training, export
and scores are used from their own packages; nothing here prints.
"""
