"""When have masks settled? Rules on distances and norms of masks that were drawn while a network trains."""
