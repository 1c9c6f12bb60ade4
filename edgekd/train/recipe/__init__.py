"""Recipes: all that decides a training, as typed tables read from TOML, with a hash. No torch, and nothing about how a
run is executed (processes, devices, folders).
"""
