"""What is true of Polytask."""
