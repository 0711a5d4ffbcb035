"""The commands, one module a noun: parse, one call, render. What they do is elsewhere."""
