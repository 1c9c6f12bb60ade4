"""What is shown to people: HTML pages, model cards, the tables of `edgekd info` and `edgekd zoo`.

Plain values in, text out: equal values give equal bytes. No engine, no clip store, no torch, no script in a page, and
no file is written here.
"""
