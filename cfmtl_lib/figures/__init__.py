"""Charts, diagrams and their common style."""
