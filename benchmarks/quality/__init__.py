"""Quality benchmark: one conditional model compared with its rivals on the same backbone and examples."""
