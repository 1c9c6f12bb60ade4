"""The training loop: from a recipe, a store and teachers to a finished run folder.

`training.train` is the entry; `edgekd.train.prepare` gives it what it trains. `module` has the training step,
`callbacks` what follows each epoch, `validation` the scores on the test side, `device` precision and threads. Choosing
recipes, running several trainings and writing the run's report belong to other rooms. No printing: the log only.
"""
