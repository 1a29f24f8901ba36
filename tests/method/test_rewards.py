from __future__ import annotations

import numpy as np
import pytest

from icr.base.conversation import wrap_text
from icr.base.errors import UserError
from icr.rewards import condition, conditioning_prompt, implicit_reward, penalise

SPANISH = (
    "Please answer the following instruction using only Spanish, "
    "unless explicitly instructed to respond in a different language.\n\nName three {language} rivers."
)


def test_conditioning_prompt_is_eq_8() -> None:
    """The braces of the prompt itself stay as they are: the template is filled once, before the prompt is added."""
    assert conditioning_prompt("es", wrap_text("Name three {language} rivers.")) == wrap_text(SPANISH)
    assert conditioning_prompt("en", wrap_text("Name three {language} rivers.")) == wrap_text(
        "Name three {language} rivers."
    )


def test_a_conversation_has_the_prefix_on_its_last_message() -> None:
    before = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Name a sea."},
        {"role": "assistant", "content": "The Aral Sea."},
    ]
    english = [*before, {"role": "user", "content": "Name three {language} rivers."}]
    asked = [{"role": "user", "content": "Nombra tres ríos."}]
    assert conditioning_prompt("es", english) == [*before, {"role": "user", "content": SPANISH}]
    assert conditioning_prompt("en", english) == english == [*before, *wrap_text("Name three {language} rivers.")]
    assert condition("translate", "es", asked, english) == english
    assert condition("multilingual", "es", asked, english) == asked


def test_conditioning_prompt_wants_a_language() -> None:
    with pytest.raises(UserError, match="es \\(Spanish\\)"):
        conditioning_prompt("spanish", wrap_text("Hi"))


def test_kinds_differ_in_their_condition_alone() -> None:
    english, asked = wrap_text("Name three {language} rivers."), wrap_text("Nombra tres ríos.")
    assert condition("cross-lingual", "es", asked, english) == wrap_text(SPANISH)
    assert condition("multilingual", "es", asked, english) == asked
    assert condition("cross-lingual", "en", english, english) == condition("multilingual", "en", english, english)


def test_reward_by_hand() -> None:
    """Eq. 9: 0.1·(−40 − −55) − 0.002·300 = 1.5 − 0.6 = 0.9; 0.1·(−70 − −60) − 0.002·50 = −1 − 0.1 = −1.1."""
    policy, reference = [-40.0, -70.0], [-55.0, -60.0]
    np.testing.assert_allclose(implicit_reward(policy, reference, 0.1), [1.5, -1.0], rtol=1e-15)
    reward = penalise(implicit_reward(policy, reference, 0.1), [300, 50], alpha=0.002)
    np.testing.assert_allclose(reward, [0.9, -1.1], rtol=1e-15)
    assert reward.dtype == np.float64


def test_no_penalty_is_the_implicit_reward() -> None:
    policy, reference = np.array([-41.5, -3.25], np.float32), np.array([-40.25, -9.75], np.float32)
    without = penalise(implicit_reward(policy, reference, 0.1), [7, 9], alpha=0.0)
    assert without.tolist() == implicit_reward(policy, reference, 0.1).tolist() == [0.1 * -1.25, 0.1 * 6.5]
