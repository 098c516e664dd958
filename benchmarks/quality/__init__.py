"""How good one conditional model is beside its rivals, on the same backbone and the same examples."""
