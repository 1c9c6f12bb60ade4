"""The integer graph of an exported student, its numpy reference, and emitters and readers of .tflite and .onnx files.

`graph` defines the ops, `reference` executes them, `tflite` and `onnx` write files, `read` reads them back, `tune`,
`addition` and `reduction` adapt a graph to the engines. No torch, no engine, no printing. What an op becomes in a file:
`edgekd.operators`.
"""
