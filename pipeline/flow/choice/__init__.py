"""Choose a precision: what for, how fast each candidate is there, and why one of them won."""
