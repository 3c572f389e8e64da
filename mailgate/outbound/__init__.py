"""Next hops: endpoints, pools, connections, TLS policy, deliveries."""
