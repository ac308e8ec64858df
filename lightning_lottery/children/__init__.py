"""One training in a folder: done once, resumed when killed, refused when changed."""
