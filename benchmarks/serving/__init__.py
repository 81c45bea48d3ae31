"""What a bundle answers under load: by Triton, and by a Batcher behind Python's own HTTP server."""
