"""The judge, audited: what its verdicts depend on besides the answers, and how well it agrees with people."""
