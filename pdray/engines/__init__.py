"""Reward engines behind one protocol, and the pass that runs them over the texts of a corpus, shard by shard."""
