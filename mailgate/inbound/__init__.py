"""Listeners: ESMTP and LMTP over TCP, TLS and unix sockets."""
