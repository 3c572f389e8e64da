"""TLS of both sides: key pairs, contexts, verification after the handshake, facts for logs and Received."""
