"""Who a message is from, by its signatures: without I/O. Texts of DNS records come in, results come out."""
