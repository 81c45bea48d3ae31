"""Run the stages in order, and keep what they made."""
