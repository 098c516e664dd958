"""What Polytask is measured with."""
