"""X-AlpacaEval: win rates against a baseline's answers, raw and length-controlled."""
