"""Draw the report's figures as inline SVG."""
