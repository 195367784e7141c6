"""What the `redis` kind is made of: a server through its own client, its RDB, and the exchange of its data."""
