"""Jobs as text: files, YAML, JSON and the paths of fields."""
