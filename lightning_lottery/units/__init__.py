"""What a model is made of, and what can be taken out: heads, neurons and channels."""
