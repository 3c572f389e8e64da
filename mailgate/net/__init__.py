"""Small helpers over Twisted transports and waits that both sides of the gateway use."""
