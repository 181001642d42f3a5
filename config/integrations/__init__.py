"""One filled-in form for each outside API. Data only; `config.policy` reads and checks it."""
