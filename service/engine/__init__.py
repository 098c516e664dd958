"""The engine: the one owner of a device. Takes rows, forms batches, runs them, delivers results. Knows no HTTP."""
