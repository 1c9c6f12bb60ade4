"""From a finished student's run to model files: integer graph, manifest, parity checks, model card.

Every file runs in its engine before it is kept. Training belongs to `edgekd.train`, the formats themselves to
`edgekd.qgraph` and `edgekd.modelfile`. Nothing here prints.
"""
