"""Reports of `edgekd check`, each a function from results to text: table, JSON, Markdown, JUnit XML, badge.

`stored` reads JSON documents of earlier commands. Nothing is counted, checked, written or printed here.
"""
