"""The stage store: what a stage made, found again by what it was made from."""
