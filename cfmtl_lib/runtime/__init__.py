"""Devices, threads, progress, provenance and the fit cache."""
