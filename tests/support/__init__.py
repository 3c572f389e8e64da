"""Tools of the tests: certificates, a running gateway, the ledger and the invariants of trust. Peers are in mailgate.testing."""
