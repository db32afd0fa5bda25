"""Reading pickles without running what they name."""
