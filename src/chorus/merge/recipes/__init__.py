"""What a recipe says: its schema, and the values of its parameters."""
