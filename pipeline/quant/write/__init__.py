"""Write the quantized graph, and say what was done."""
