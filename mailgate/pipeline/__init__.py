"""From the configuration's tree to routes, and one transaction through them."""
