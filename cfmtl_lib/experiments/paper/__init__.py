"""Tables 4-6, the ledger, and variants of the published fits."""
