"""papad beside papa 1.0.6: the same lines to both servers, and the original's own client and circus against papad."""
