"""Cross-fitted trainings: the loss of every pair under policies that saw no pair of its prompt."""
