"""Keep what a stage made, and find it again by what it was made from."""
