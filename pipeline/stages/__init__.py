"""Do one stage a file; none imports another, and ``pipeline.flow.run`` names them in order."""
