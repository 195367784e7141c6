"""What the `couchdb` kind is made of: its HTTP client, documents read page by page, and documents put back."""
