"""The transports, which record what really happened: the server process and the HTTP client."""
