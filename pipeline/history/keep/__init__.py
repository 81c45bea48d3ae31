"""Keep the nights: records, the database, the journal, old bundles."""
