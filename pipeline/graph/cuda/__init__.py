"""Rewrites for ONNX Runtime on CUDA, whose kernels fuse more than its CPU kernels should.

On a CPU the same operators run, mostly slower than their parts (``graph.fuse_kernels``); that is
how what these graphs compute is checked without a GPU. Specification of the operators:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""
