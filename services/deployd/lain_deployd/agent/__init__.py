"""The agent: what one node does with its assignments. The controller decides, the agent acts and says what it saw."""
