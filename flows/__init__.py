"""One file for each thing an operator can start, and the recipes that they share."""
