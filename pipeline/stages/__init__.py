"""The stages, one a file; none imports another. ``pipeline.flow.run`` names them in order."""
