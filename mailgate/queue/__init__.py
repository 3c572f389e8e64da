"""The durable queue: what was accepted with 250 and waits for its delivery. See docs/queue.md."""
