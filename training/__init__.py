"""How the bundled pair was made: corpus, tokenizer, target, drafter, quantisation, evaluation. See README.md."""
