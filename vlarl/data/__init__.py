"""Episodes on disk and supervised examples."""
