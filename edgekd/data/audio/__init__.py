"""Audio files and waveforms: decoding, PCM, impulse responses and the makes of microphones, augmentation.

Only `augment` imports torch. soundfile and soxr are imported where they are used.
"""
