"""Find a Sentence Transformer on disk, and read what it is made of."""
