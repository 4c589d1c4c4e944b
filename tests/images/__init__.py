"""Images for tests, small and real ones, and what compares them."""
