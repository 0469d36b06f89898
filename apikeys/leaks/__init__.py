"""Reports of leaked keys by GitHub, by services and on a page."""
