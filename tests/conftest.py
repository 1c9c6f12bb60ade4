"""Tests run in parallel workers on few cores, so each gets one thread; read by OpenMP when torch is first imported."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
