"""Data sets, from their published files to a clip store.

`sets` finds the clips of each data set, `audio` decodes and augments, `store` keeps decoded audio; `prepare`, `info`
and `fetch` are the data commands. No models, no training; torch only in `audio.augment`. Only `prepare.progress`
prints, to a terminal.
"""
