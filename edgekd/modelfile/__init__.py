"""The model file (.tflite or .onnx with a manifest inside) and everything that opens it.

Inside: the container and its manifest, engines, guards against files that would harm an engine, golden vectors and
`verify`, the equaliser, features of any network, and the models that come with edgekd. No torch, no audio input and no
printing. Engines and the onnx package are imported where they are used.
"""
