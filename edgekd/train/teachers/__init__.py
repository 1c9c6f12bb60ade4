"""What a student learns from teachers: saved soft labels, those of cross-fitted teachers, and live teachers. No loss:
that is `edgekd.train.loss`.
"""
