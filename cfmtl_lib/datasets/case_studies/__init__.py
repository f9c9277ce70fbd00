"""Tables of real campaigns and trials."""
