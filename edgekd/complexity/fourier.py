"""Estimates of the multiply-accumulates of Fourier transforms, for the front end and for transforms in a file.

An engine may compute them in many ways. Here a complex transform of N values is a radix-2 FFT: N / 2 * log2(N)
butterflies with 4 multiplications each, log2 rounded up. A real one is a complex one of N / 2 values, and 2 N for the
split into N / 2 + 1 bins.
"""


def complex_fft_macs(size: int) -> int:
    """Multiply-accumulates of a transform of `size` complex values; 0 for a single one."""
    return 2 * size * max(size - 1, 0).bit_length()


def real_fft_macs(size: int) -> int:
    """Multiply-accumulates of a transform of `size` real values."""
    return size * max(size // 2 - 1, 1).bit_length() + 2 * size
