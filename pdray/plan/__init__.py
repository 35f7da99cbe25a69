"""What a run will cost before it is started: rows and tokens by a sample, seconds, memory and disk by arithmetic."""
