"""Everything that depends on the installed major version of mcp."""
