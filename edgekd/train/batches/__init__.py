"""Batches of a training: which clips, which crops of them, which augmentation, and the waveforms from the store.

`epochs` plans the batches of an epoch as indices and random parameters, `crops` names samples of a store and reads
them, `audio_cache` reads them on the training device. Every random number comes from `random_streams`. No network, loss
or trainer belongs here, and torch only in `audio_cache`.
"""
