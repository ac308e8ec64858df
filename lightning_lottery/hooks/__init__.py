"""What every callback asks of Lightning."""
