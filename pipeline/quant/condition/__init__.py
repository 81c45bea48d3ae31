"""Make the graph easy to quantize without changing what it computes."""
