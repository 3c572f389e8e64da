"""One message: envelope, header section, body, trace fields."""
