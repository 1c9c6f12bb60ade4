"""One training by several processes that torchrun or SLURM started: rank, barrier, work of the first process, the end
of all processes when one fails, and Lightning's strategy for them. No files, and nothing about networks.
"""
