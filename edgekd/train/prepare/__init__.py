"""What happens between a recipe and the first epoch: `prepared.prepare` checks and builds everything once.

`checks` refuses what does not fit, `inputs` are clips, sizes and statistics, `pretrained` the initial weights. Not
here: epochs, and the writing of run folders.
"""
