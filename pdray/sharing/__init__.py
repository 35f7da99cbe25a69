"""The kept pairs as a data set for others: files with a card, in a folder or on a hub."""
