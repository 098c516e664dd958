"""What stands in `deploy/` and in the pages of `docs/`: as it is rendered, and beside the code that it speaks of."""
