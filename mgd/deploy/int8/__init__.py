"""INT8: `quantise` decides what stays in float32, `qdq` writes the graph, `speed` tells which layers gain by it."""
