"""Lay a bundle out for servers that are not ours."""
