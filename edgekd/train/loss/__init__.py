"""The loss of a student: its terms, and the objective that weighs them.

A term compares a student's outputs with labels or teachers and gives one value per item; only `objective` mixes
targets, blends teachers, weighs terms and averages over the batch. No trainer, no data and no network architecture
belongs here.
"""
