"""Tables of recipes that train in a second, on tones at 8 kHz."""

TABLES = """
[data]
train = ["a"]
test = ["b"]
[frontend]
sample_rate = 8000
n_fft = 256
win_length = 256
hop_length = 256
n_mels = 16
"""
NETWORK = """
kind = "cp_resnet"
stem = 4
widths = [8]
kernels = [[3, 1]]
groups = [1]
pools = [1]
"""
