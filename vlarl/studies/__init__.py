"""Claims of the method, each tested by a declared grid of runs."""
