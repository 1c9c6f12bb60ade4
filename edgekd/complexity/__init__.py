"""What a model file costs: parameters, bytes, multiply-accumulates and activations, counted from the file alone.

Inside: the counts by each convention, deployment targets with budgets and rules, the check against them, the comparison
with an earlier version, and the reports of `edgekd check`. No torch, no engine, and no printing. The packages that read
a format are imported in `readers`, where they are used.
"""
