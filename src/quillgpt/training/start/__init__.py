"""From settings to a run: what it starts from, its data, its machine, its model."""
