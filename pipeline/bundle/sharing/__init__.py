"""Push a bundle to the Hugging Face hub or an OCI registry, and pull it from there.

Only a bundle that verifies leaves the machine, and only one that verifies appears on it.
"""
