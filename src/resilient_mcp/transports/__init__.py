"""The two edges, where ground truth is written down: the server process and the HTTP client."""
