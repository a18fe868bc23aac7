"""What attackers do, run against a service of the tests' own."""
