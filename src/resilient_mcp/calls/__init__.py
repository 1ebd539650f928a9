"""The journey of one call, from the client's method to an answer or an error."""
