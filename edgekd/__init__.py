"""edgekd: from a folder of labelled audio to a live int8 acoustic scene classifier on a Raspberry Pi.

Each package has a docstring of what is inside and what must not be. Imports go down these floors: cli; dcase and demo;
experiments; export; train; evaluation and quant; service; runtime, models, complexity and report; data, modelfile and
qgraph; metrics; frontend, files, operators, resources and rounding; errors and text. Nothing is imported here, so that
`import edgekd` costs nothing.
"""
