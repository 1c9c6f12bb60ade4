"""Training of networks: `edgekd teach`, `edgekd distill`, `edgekd bench-train`.

To read a training from its beginning: `recipe` (what is trained), `prepare` (what is checked and built from it, once),
`loop` (the epochs), `run` (the run folder). `batches` makes the inputs, `loss` the objective, `teachers` the soft
labels; `stages` trains further runs of a recipe, `parallel` is the process group. No engine of model files, no export,
and no printing: results go to the run folder and the log.
"""
