"""Charts, diagrams and the style that they share."""
