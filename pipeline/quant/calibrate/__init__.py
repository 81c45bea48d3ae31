"""Watch the calibration text flow through the graph: ranges, moments, steps."""
