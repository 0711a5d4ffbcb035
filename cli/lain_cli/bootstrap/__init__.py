"""The first minute of a cluster: its CA, who has which certificate, credentials, etcd's users, the first token. Used by ``lain local``
and by ``deploy/compose.yaml``, through ``lainctl bootstrap``."""
