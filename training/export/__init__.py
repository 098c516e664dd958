"""Export: a version as an ONNX graph in float32 and 8 bits, measured and checked on every backend."""
