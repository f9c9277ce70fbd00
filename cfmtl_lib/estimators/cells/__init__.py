"""Backends of CF-MTL, one file each: they fit the strata and the propensity to one kind of x."""
