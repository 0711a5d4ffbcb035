"""The controller: one replica leads, decides where pods go and what is routed, and writes it for agents and routers to act on."""
