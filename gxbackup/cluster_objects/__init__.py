"""What a Kubernetes object is to a backup: its order, its form for a restore, how two differ. Asks no API server."""
