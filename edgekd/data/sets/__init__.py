"""The data sets: one module each, whose `read` (or `clips`, for synthetic scenes) finds the clips.

`metadata` lists all data sets; `checks`, `tables` and `split` are shared by them; `toy_sets` generates small copies of
their layouts. Nothing is decoded here and no torch is imported.
"""
