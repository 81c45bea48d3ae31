"""The stages, one a file; none imports another. ``pipeline.run`` names them in order."""
