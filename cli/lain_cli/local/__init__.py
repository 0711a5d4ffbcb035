"""``lain local``: a real cluster on one machine, in containers. The developer's environment, and the harness of the project's own tests."""
