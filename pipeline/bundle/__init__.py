"""Write and check what is published: the manifest, its proofs, its signature."""
