"""A PostgreSQL server by its own programs: asked, dumped, put back. Knows no pod, no container, no inventory."""
