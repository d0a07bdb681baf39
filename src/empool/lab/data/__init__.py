"""Images with labels: by name, from a folder, or a user's own."""
