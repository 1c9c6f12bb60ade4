"""One training by several processes that torchrun or SLURM started: rank, barrier, work of the first process, and the
end of all processes when one fails. No files, and nothing about networks.
"""
