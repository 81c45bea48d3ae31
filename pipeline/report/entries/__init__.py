"""Make the content of ``report.json``."""
