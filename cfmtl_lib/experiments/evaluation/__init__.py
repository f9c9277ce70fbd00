"""Simulation studies of bias, coverage and accuracy."""
