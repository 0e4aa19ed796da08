"""The model card, README.md of a bundle: what it is, its text and licences, how trained, how good."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kserve.languages import language_name


@dataclass(frozen=True)
class CardFacts:
    """What the card is written from: config.json, the parameter counts, and the bytes of the tensors."""

    config: Mapping[str, Any]
    parameters: Mapping[str, int]
    model_bytes: int


def model_card(facts: CardFacts) -> str:
    """The card in Markdown."""
    parts = [
        _heading(facts),
        _scores(facts.config["quality"]),
        _data(facts.config),
        _training(facts.config),
        _sizes(facts),
        _shortlist(facts.config),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _heading(facts: CardFacts) -> str:
    source, target = map(language_name, facts.config["languages"].values())
    name = facts.config["name"]
    linear = facts.config["architecture"]["linear"].values()
    kmatrices = sum(spec["kind"] == "kmatrix" for spec in linear)
    what = {0: "dense", len(linear): "K-matrices (products of butterfly matrices)"}.get(
        kmatrices, f"K-matrices at {kmatrices} of {len(linear)} sites, dense at the others"
    )
    return (
        f"# {name}\n\n"
        f"Translates {source} to {target}. A DynamicConv encoder-decoder (Wu et al. 2019) whose linear\n"
        f"layers are {what}; it runs on kserve's C++ engine, without torch.\n\n"
        f"```sh\nkserve translate --bundle models/{name} < in.txt > out.txt\n```\n\n"
        "It learned from the text named below: expect it to be at home in that kind of text and to be\n"
        "wrong, fluently, outside of it. Do not rely on it where a mistake harms someone."
    )


def _scores(quality: Mapping[str, Any]) -> str:
    if not quality:
        return ""
    twins = any("dense_twin" in scores for scores in quality.values())
    heads = ["text", "BLEU", "chrF", "TER", *(["dense twin's BLEU"] if twins else [])]
    lines = [
        "## Scores",
        "",
        "By the engine, cased and detokenised.",
        "",
        f"| {' | '.join(heads)} |",
        f"| {' | '.join(['---'] * len(heads))} |",
    ]
    for name, scores in quality.items():
        cells = [_score(scores, key) for key in ("bleu", "chrf", "ter")]
        twin = [_score(scores.get("dense_twin", {}), "bleu")] if twins else []
        lines.append(f"| {name} | {' | '.join([*cells, *twin])} |")
    signatures = {_signature(scores) for scores in quality.values() if "signature" in scores}
    lines += ["", *(f"`{signature}`" for signature in sorted(signatures)), "", *_speeds(quality)]
    return "\n".join(lines).rstrip()


def _score(scores: Mapping[str, Any], key: str) -> str:
    return f"{scores[key]:.1f}" if key in scores else ""


def _speeds(quality: Mapping[str, Any]) -> list[str]:
    """What the twin is, and both speeds on each text of which both are known."""
    key = "sentences_per_second"
    both = {
        name: (scores, scores["dense_twin"])
        for name, scores in quality.items()
        if key in scores and key in scores.get("dense_twin", {})
    }
    if not both:
        return []
    own, _ = next(iter(both.values()))
    speeds = [f"{name} {one[key]:.0f} and {twin[key]:.0f}" for name, (one, twin) in both.items()]
    return [
        "The dense twin has the same sizes, and all its layers are dense. Sentences a second of the two,",
        f"by the engine on {own['threads']} threads ({own['isa']}), a beam of {own['beam_size']}:",
        f"{', '.join(speeds)}.",
    ]


def _signature(scores: Mapping[str, Any]) -> str:
    """The BLEU signature; `kserve eval` may hold one string or one per metric."""
    signature = scores["signature"]
    return str(signature.get("bleu", signature)) if isinstance(signature, Mapping) else str(signature)


def _data(config: Mapping[str, Any]) -> str:
    data = config["provenance"]["recipe"]["data"]
    rows = [
        f"| `{corpus['prefix']}` | {corpus['repeat']} | {corpus['licence']} |" for corpus in data["train"]
    ]
    return "\n".join(
        ["## Data", "", "| training text | times an epoch | licence |", "| --- | --- | --- |", *rows, "",
         f"Validation: `{data['valid']}`. The licences hold for the weights; the text is not included."]
    )  # fmt: skip


def _training(config: Mapping[str, Any]) -> str:
    provenance = config["provenance"]
    training, trained = provenance["recipe"]["training"], provenance["trained"]
    vocabulary = provenance["recipe"]["vocabulary"]
    lines = [
        "## Training",
        "",
        f"Adam, peak learning rate {training['learning_rate']:g} after {training['warmup_steps']} steps, "
        f"{training['batch_tokens']} target tokens a batch,",
        f"dropout {training['dropout']:g}, label smoothing {training['label_smoothing']:g}, "
        f"the last {training['average_last']} saved states averaged; "
        f"{vocabulary['size']} {vocabulary['kind']} pieces.",
    ]
    if training.get("start_share"):
        share = f"{training['start_share']:.0%}"
        lines.append(f"Fine-tuned: the weights that it started from make up {share} of these.")
    if "seconds" in trained:
        lines.append(
            f"{trained['step'] + trained.get('steps_before', 0)} steps, "
            f"{trained['target_tokens'] / 1e6:.1f} M target tokens, "
            f"{trained['seconds'] / 3600:.1f} hours; torch {provenance['torch']}."
        )
    return "\n".join(lines)


def _sizes(facts: CardFacts) -> str:
    arch, counts = facts.config["architecture"], facts.parameters
    return (
        "## Sizes\n\n"
        f"Width {arch['d_model']}, feed-forward {arch['d_ffn']}, {arch['heads']} heads, "
        f"{len(arch['encoder_kernels'])} encoder and {len(arch['decoder_kernels'])} decoder layers "
        f"(kernels {arch['encoder_kernels']} and {arch['decoder_kernels']}), {arch['vocab_size']} pieces.\n"
        f"{counts['linear'] / 1e6:.2f} M numbers in the linear layers "
        f"({counts['linear_dense'] / 1e6:.2f} M if they were dense), {counts['total'] / 1e6:.2f} M in all.\n"
        f"Weights: {facts.model_bytes / 1e6:.1f} MB; linear layers in {_stored(arch['linear'])}, "
        "the embedding in int8."
    )


def _stored(linear: Mapping[str, Mapping[str, Any]]) -> str:
    """The precisions of the layers: K-matrices have 16 bits."""
    bits = {"float16": "16 bits", "float32": "32 bits", "int8": "int8"}
    return " and ".join(dict.fromkeys(bits[spec.get("precision", "float16")] for spec in linear.values()))


def _shortlist(config: Mapping[str, Any]) -> str:
    facts = config["provenance"].get("shortlist")
    if facts is None:
        return ""
    used = "used unless told otherwise" if config["generation"]["shortlist"] else "used only when asked for"
    scores = [
        f"| {text} | {score['bleu']:.2f} | {score['bleu_whole']:.2f} |"
        for text, score in facts["texts"].items()
    ]
    return (
        "## Shortlist\n\n"
        f"Learned from the training text: {facts['each']} translations of a token at most, and the "
        f"{facts['always']} most frequent\n"
        f"tokens; {facts['listed']:.0f} of {config['architecture']['vocab_size']} tokens a sentence of these "
        f"texts. It is {used}.\n\n"
        "| text | BLEU with it | with the whole vocabulary |\n| --- | --- | --- |\n" + "\n".join(scores)
    )
