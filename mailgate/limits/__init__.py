"""How much of something may happen at a time: token buckets, concurrency, guesses at passwords."""
