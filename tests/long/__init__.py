"""Programs that look for what the tests may miss, for as long as one likes."""
