"""Tables: strings to strings."""
