"""Text to checked tree: lexer, parser, expansion, values, schema, diagnostics. No Twisted, no I/O but reading files."""
