"""WHO ASKS? The HTTP listeners, their routes and their documents."""
