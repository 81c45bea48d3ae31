"""What servers other than ours load a bundle from."""
