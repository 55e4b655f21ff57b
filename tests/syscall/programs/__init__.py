"""One module per area, each a program that prints the same on Linux and on Piton."""
