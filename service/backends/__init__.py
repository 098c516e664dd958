"""Backends: a batch in, logits out, by torch on CPU and CUDA, ONNX Runtime or OpenVINO."""
