"""The training loop: from a recipe, a store and teachers to a finished run folder.

`training.train` is the entry. Before the first epoch `checks` refuses what does not fit; `module` has the training
step, `callbacks` what follows each epoch, `validation` the scores on the test side. Choosing recipes, running several
trainings and writing the run's report belong to other rooms. No printing: the log only.
"""
