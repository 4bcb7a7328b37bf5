"""The methods as plain numpy and torch. No Ray, no files, no network: everything here runs in a notebook."""
