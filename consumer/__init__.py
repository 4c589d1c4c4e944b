"""Taking deliveries, running conversions, deciding what becomes of them."""
