"""Names: questions to DNS servers over Twisted, and the resolver that everything of the gateway asks."""
