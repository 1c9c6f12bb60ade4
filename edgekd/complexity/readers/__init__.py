"""Read .tflite and .onnx files into one form, `network.Network`: ops over tensors with shapes, bytes and
multiply-accumulates.

A reader parses the file with the package of its format and applies the counting rules of that format. No engine runs,
and nothing is compared with a budget here.
"""
