"""The outside: one folder per API. The only place that speaks HTTP or SMTP; it knows no broker and no ledger."""
