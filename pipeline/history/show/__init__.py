"""Show the history: pages, short forms, and runs for MLflow."""
