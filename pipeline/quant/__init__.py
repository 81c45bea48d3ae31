"""Quantize an ONNX encoder to static W8A8, one idea a file.

``gemms`` finds what to quantize, ``statistics`` watches real tokens go by, ``smoothing`` moves
outliers where they hurt less without changing the function (``folds`` finds where to, ``channels``
follows them back to the projection they come from), ``scales`` turns ranges into steps,
``rounding`` picks the integers, ``bias_correction`` mends the mean output and ``qdq`` writes all of
it into the graph. Q/DQ rules are TensorRT's: symmetric, activations per tensor, weights per output
channel, zero point 0.
"""
