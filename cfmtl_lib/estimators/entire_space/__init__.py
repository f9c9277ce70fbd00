"""Two-arm entire-space models of conversion: who collects, and who buys given that."""
