"""Training of networks: `edgekd teach`, `edgekd distill`, `edgekd bench-train`.

`recipe` says what to train, `batches` makes the inputs, `loss` the objective, `loop` the training itself; `teachers`
gives soft labels, `stages` trains further runs of a recipe, `run` is the run folder, `parallel` the process group. No
engine of model files, no export, and no printing: results go to the run folder and the log.
"""
