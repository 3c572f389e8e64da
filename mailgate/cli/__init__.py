"""The mailgate command, one file a subcommand."""
