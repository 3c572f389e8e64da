"""Side by side on one machine: this gateway, Postfix, and nothing between source and sink. `python -m contrib.bench --help`."""
