"""Pure drawing: numbers in, out comes a matplotlib figure that belongs to no window; ``savefig`` writes it."""
