"""Rewrite ``model.onnx`` so that CPUs run it fast and it computes what it did.

One idea a file. The graph stays portable: standard operators and
``com.microsoft.MultiHeadAttention``, which every ONNX Runtime since 1.14 and OpenVINO read; nothing
in it depends on the machine.
"""
