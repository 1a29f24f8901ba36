"""What an experiment of `icr transfer` uses its reward models for: the section `align`."""

from __future__ import annotations

from typing import Literal

from icr.config.best_of_n import CandidateSampling
from icr.config.rl import RLMeasuring, RLSampling, RLTrain
from icr.config.schema import Train
from icr.config.values import Count, NonNegative, Number, Positive, Section, TemplateArguments, Text


class TransferBestOfN(CandidateSampling):
    """The candidates of every target, with the keys of a run's `sampling`."""

    k: Count | None = None
    """The answers are the best of the first k. Without it: of all n."""


class TrainedPrompts(Section):
    """What a policy answers to be trained on its answers."""

    prompts: Text
    """What the policy answers to be trained on, in every target: not those of `data.prompts`, which are judged."""
    prompt_limit: Count | None = None
    """Use only the first N of them."""
    allow_overlap: bool = False
    """Also allow prompts that are in `data.prompts`. Otherwise they are an error."""
    sides: Literal["organic", "all"] = "organic"
    """Which policies of a target are trained, where `sft` makes several: the organic one, or every side's."""


class TransferDpo(TrainedPrompts):
    """DPO from the policy, on its own answers, paired by every reward model: `n` and the other keys of `best_of_n` say
    how they are sampled."""

    length_penalty: Literal["fit", "none"] | Number = "none"
    """As `reward.length_penalty` of a run."""
    drop_truncated: bool = False
    """Leave out answers that were cut off at `max_tokens`."""
    drop_wrong_language: bool = False
    """Leave out answers that are not in the prompt's language."""
    train: Train = Train()
    """The training, with the keys of a run's `train`."""


class TransferHeldOut(RLMeasuring):
    """What is measured between the steps of RLOO. The target's own reward model, where there is one, also scores it."""

    path: Text | None = None
    """Held-out prompts of every target, of which the first are taken. Without it some of `prompts` are held back."""


class TransferRL(TrainedPrompts):
    """RLOO from the policy, against every reward model, with the keys of `icr rl`."""

    max_kl: Positive = 20.0
    """Nats a sequence: a training stops when the KL to the policy is above it."""
    beta: NonNegative = 0.1
    """β of the KL in the reward."""
    sampling: RLSampling = RLSampling()
    heldout: TransferHeldOut = TransferHeldOut()
    train: RLTrain = RLTrain()


class TransferAlign(Section):
    """What the reward models are used for."""

    policy: Text | None = None
    """The model that answers: hub id, folder or .gguf file. Without it: `base`. With `sft`, what is fine-tuned."""
    chat_template: Text | None = None
    """A Jinja file, for policies whose tokenizer has no chat template."""
    template_arguments: TemplateArguments = {}
    """Arguments of the policy's chat template."""
    judged: Literal["best", "all"] = "best"
    """What `judges` compare with the policy's own answers. `best`: the best answers. `all`: every candidate as well,
    from which the expected win rate of the best of k follows for every k."""
    best_of_n: TransferBestOfN
    dpo: TransferDpo | None = None
    """A policy for every reward model and target, trained on the best and worst answers by that model."""
    rl: TransferRL | None = None
    """A policy for every reward model and target, trained by RLOO with that model's scores as its reward."""
