"""A model file over data: evaluate, predict, time, and measure microphones for an equaliser.

Runs exported files in their engines with the numpy front end, as a device does. No training code and no torch; scores
come from `edgekd.metrics`, pages from `edgekd.report`. Functions return reports; only the command line prints.
"""
