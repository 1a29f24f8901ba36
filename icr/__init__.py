"""Implicit Cross-Lingual Rewarding: an English-aligned model teaches itself to answer in other languages.

The files beside this one are the method of Yang et al. (ACL 2025, arXiv 2503.04647); read them with the paper in hand.
Every folder is machinery. A round goes prompt → response → reward → pair → next policy; its four tables are in
icr/rows.py. The equations, in the paper's order:

    Eq. 7   icr/work/sampling.py             N responses per prompt, sampled from the policy
    Eq. 8   icr/rewards.py conditioning_prompt  G(x^ℓ): the English prompt, asking for an answer in ℓ
    Eq. 9   icr/rewards.py condition         R_c, cross-lingual: what log-probs are given, Eq. 12 and 13 beside it
    Eq. 9   icr/rewards.py implicit_reward   β times the log-ratio of policy and reference
    Eq. 9   icr/rewards.py penalise          minus α·|y|
    Eq. 10  icr/pairs.py pick_pair           the best and the worst response become chosen and rejected
    Eq. 11  loops/dpo.py dpo_nll_loss        DPO with the NLL of the chosen response
    Eq. 12  icr/rewards.py condition         R_m, multilingual
    Eq. 13  icr/rewards.py condition         R_t, translate-to-English
    Eq. 14  icr/translation.py translate_rows  the translation that R_t scores
    Eq. 15  icr/length.py fit_length_penalty   α per language, exactly
    Eq. 16  loops/kto.py kto_loss            KTO on the same pairs
    Eq. 17  loops/kto.py reference_point     its reference point z_ref

icr/scoring.py has the log-probs of Eq. 9, 12 and 13, icr/reward_table.py makes one language's rewards from Eq. 9 and
15, icr/lidr.py is the LIDR baseline, icr/languages.py has the names of languages and detects a text's language. Every
reward kind, from its heavy work to its pairs, is a class in icr/rounds/stages/kinds.py.
"""

__version__ = "0.1.0"
