"""Rewrites of ``model.onnx`` that make it fast on CPUs and keep what it computes.

One idea a file. The graph stays portable: standard operators and
``com.microsoft.MultiHeadAttention``, which every ONNX Runtime since 1.14 and OpenVINO read; nothing
in it depends on the machine.
"""
