"""Pictures of what lies in folders: one run of an experiment, several together, a recipe; also half-done ones."""
