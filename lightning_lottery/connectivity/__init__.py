"""Finished networks: the straight lines between them, and what lies on these."""
