"""Devices, threads, progress, provenance and the cache of fits."""
