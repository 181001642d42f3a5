"""The engine, pure of frameworks: commands, verdicts, outcomes, and the steps of one attempt."""
