"""Golden documents: one of every kind of record, as some version of LAIN wrote it; every later version must read it."""
