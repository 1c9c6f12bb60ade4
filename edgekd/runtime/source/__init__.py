"""Sources of samples: microphones and commands, captured by a process of its own, and audio files and pipes.

`child` and `microphones` run in the capture process and import neither numpy nor an engine. No decisions here.
"""
