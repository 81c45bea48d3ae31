"""What is measured: agreement of vectors, task scores, interleaved timing."""
