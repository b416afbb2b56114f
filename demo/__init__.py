"""A real stack with real faults, for the demo and the tests; the product never imports it."""
