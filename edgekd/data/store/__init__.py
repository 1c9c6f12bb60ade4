"""The clip store: the decoded audio of a data set in one file, and the table of its clips.

`clips` describes a clip and its table, `store` reads a store, `writer` (with `journal`) writes one. `folds` and
`recordings` group clips by what they were cut from; `page_cache` advises the kernel on stores larger than memory.
No torch, no decoding of audio files, no printing.
"""
