"""The controller's admin API: nodes, pods, assignments, switches, routers; why a pod is where it is."""
