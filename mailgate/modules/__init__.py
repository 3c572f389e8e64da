"""What the language can name, one file each: folder = namespace, file = kind."""
