"""Show a night: on the terminal, as a CI page, as JUnit."""
