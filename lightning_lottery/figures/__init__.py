"""Pure drawing: numbers in, a matplotlib figure out."""
