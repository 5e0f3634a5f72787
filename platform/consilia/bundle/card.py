"""The model card, written from the numbers. Source: Mitchell et al., Model Cards, FAT* 2019."""

from collections.abc import Iterable, Sequence

from consilia.bundle.document import BundleDocument, Member
from consilia.bundle.evaluation import Evaluation
from consilia.bundle.text import CALIBRATOR, MEMBERS, THRESHOLDS, describe_reading
from consilia.decision.ood.verdict import describe_ood
from consilia.decision.promises import PROMISES_SEEN, promise_rows
from consilia.metrics.estimates import ESTIMATES, Estimate
from consilia.metrics.patients import BY_IMAGE, BY_PATIENT, count_in_words
from consilia.metrics.scores import METRICS

_TITLES = {
    "test": "Locked test split",
    "external": "Other images",
    "cross_fitted": "Cross-validation (internal estimate)",
}
_KINDS = {
    ("dicom",): "DICOM files",
    ("raster",): "raster images (PNG, JPEG and kin)",
    ("dicom", "raster"): "DICOM files and raster images",
}
_ORDER = ("test", "external", "cross_fitted")
_LICENCE = (
    "## Licence\n\nconsilia, the software that built this bundle, is under the Apache License 2.0. The weights are "
    "not: whoever shares them must state their licence here. It depends on the images and weights that they come from."
)


def model_card(document: BundleDocument) -> str:
    """Return the card as Markdown; every number in it stands in `ensemble.json` too."""
    sections = [
        f"# {document.name}",
        _summary(document),
        _list("## Read this first", document.warnings),
        "## Results",
        _honesty(document),
        *_results(document),
        _members(document),
        f"## Calibration\n\n{document.calibration.reason} {CALIBRATOR[document.build]}".rstrip(),
        _safety(document),
        _gate(document),
        _input(document),
        _provenance(document),
        _LICENCE,
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _summary(document: BundleDocument) -> str:
    source = document.provenance
    return (
        f"Classifies {document.modality} images as {_join(document.classes)}. Built by consilia "
        f"{document.consilia} from study {source.study} on data set {source.data}. For research: it is not "
        "a medical device, and its numbers hold for images like those it was made from."
    )


def _results(document: BundleDocument) -> list[str]:
    splits = {evaluation.split: evaluation for evaluation in document.evaluations}
    sections = [text for split in _ORDER if split in splits for text in _levels(splits[split])]
    if "test" not in splits:
        sections.insert(0, "No locked test split has been evaluated: every number below is an internal estimate.")
    return sections


def _honesty(document: BundleDocument) -> str:
    """Tell the search from the most flattering number to the most honest one."""
    report = document.honesty
    names = ("log_loss", "macro_auc", "accuracy", "brier", "ece")
    rows = [
        [ESTIMATES[row.kind], *(_number(row.metrics.get(name)) for name in names), row.predictor] for row in report.rows
    ]
    said = f"{report.trials} trials were tried, and {report.candidates} finished every fold. From flattering to honest "
    said = f"{said}({BY_IMAGE}):"
    return f"{said}\n\n{_table(['estimate', *(METRICS[name].title for name in names), 'describes'], rows)}"


def _levels(evaluation: Evaluation) -> list[str]:
    """Return the section of an evaluation, and that of its patients as a whole."""
    title = _TITLES[evaluation.split]
    whole = evaluation.by_patient
    return [
        _evaluation(evaluation, title=title, unit="images"),
        *([] if whole is None else [_evaluation(whole, title=f"{title}, patient by patient", unit="patients")]),
    ]


def _evaluation(evaluation: Evaluation, *, title: str, unit: str) -> str:
    rows = []
    for name, estimate in evaluation.metrics.items():
        before = _number(evaluation.uncalibrated.get(name)) if name in evaluation.uncalibrated else ""
        rows.append([METRICS[name].title, _number(estimate), before])
    whole = unit == "patients"
    units = ["patients"] if whole else ["images", "patients"]
    classes = [
        [
            report.name,
            *(getattr(report, each) for each in units),
            *(f"{value:.3f}" for value in (report.precision, report.recall, report.f1)),
        ]
        for report in evaluation.classes
    ]
    names = [report.name for report in evaluation.classes]
    counts = [[name, *row] for name, row in zip(names, evaluation.confusion, strict=True)]
    counted = count_in_words(evaluation.images, evaluation.patients)
    counted = f"{evaluation.patients} patients" if whole else f"{counted}; {BY_IMAGE}"
    parts = [
        f"### {title}",
        f"{counted}; {evaluation.predictor}. Intervals: 95 %, bootstrap over patients.",
        _table(["metric", "value", "before calibration"], rows),
        _table(["class", *units, "precision", "recall", "F1"], classes),
        _table(["true class \\ predicted", *names], counts),
        _promises(evaluation),
        "\n".join(f"- {note}" for note in evaluation.notes),
    ]
    return "\n\n".join(part for part in parts if part)


def _promises(evaluation: Evaluation) -> str:
    rows = [] if evaluation.promises is None else promise_rows(evaluation.promises)
    return _table(["promise", PROMISES_SEEN], rows) if rows else ""


def _members(document: BundleDocument) -> str:
    rows = [
        [member.trial, member.architecture, _model(member), f"{member.weight:.3f}", len(member.networks)]
        for member in document.members
    ]
    table = _table(["trial", "architecture", "timm model", "weight", "networks"], rows)
    selection = document.selection
    chosen = (
        f"{selection.reason} {selection.candidates} fully evaluated trials could be chosen from. The "
        f"out-of-fold log loss that was minimised ({BY_PATIENT}), and is therefore optimistic, is "
        f"{selection.in_sample_loss:.4f}; that of the best single trial is {selection.best_single_loss:.4f}."
    )
    told = ["## Members", chosen, MEMBERS[document.build], table, _sizes(document)]
    return "\n\n".join(part for part in told if part)


def _model(member: Member) -> str:
    """Return the name of timm's model, with what was changed of it."""
    architecture = member.model.architecture
    return ", ".join([architecture.timm, *(f"{key}={value}" for key, value in architecture.arguments.items())])


def _sizes(document: BundleDocument) -> str:
    """Tell what fewer members would cost."""
    if len(document.sizes) < 2:
        return ""
    rows = [[size.members, f"{size.loss:.4f}", f"{size.difference:+.4f}"] for size in document.sizes]
    said = (
        "Fewer members are faster (`max_members`): those of the largest weights, with a calibrator of their own. They "
        f"give no prediction sets. Cross-fitted log loss, lower is better ({BY_PATIENT}):"
    )
    return f"{said}\n\n{_table(['members', 'log loss', 'difference to all'], rows)}"


def _safety(document: BundleDocument) -> str:
    safety = document.safety
    abstention = [] if safety.abstention is None else [safety.abstention.reason]
    facts = [*safety.guarantee, *(point.reason for point in safety.operating_points), *abstention]
    title = "## What it promises, and when it asks for a person"
    return "\n\n".join([_list(title, facts), f"{THRESHOLDS[document.build]} In every rate {BY_PATIENT}."])


def _gate(document: BundleDocument) -> str:
    if document.gate is None:
        return "## Unusual images\n\nImages are not compared with those of the training: any image gets an answer."
    return _list("## Unusual images", describe_ood(document.gate))


def _input(document: BundleDocument) -> str:
    reading = document.reading
    sizes = sorted({network.preprocessing.image_size for member in document.members for network in member.networks})
    return (
        f"## Input\n\nTrained on {_KINDS[document.kinds]}. {describe_reading(reading)} An image of another kind is "
        "refused unless the caller asks for it to be taken as displayed. The networks see "
        f"{_join([f'{size} px' for size in sizes])}. `golden.npz` holds synthetic inputs (noise "
        "and gradients), no patient's image, and what the ensemble said of them; loading compares that."
    )


def _provenance(document: BundleDocument) -> str:
    source = document.provenance
    facts = [
        f"built {source.created} by recipe {source.recipe.name}",
        f"study digest {source.study_digest}",
        f"data digest {source.data_digest}",
        f"folds digest {source.folds_digest}",
        *(f"{name} started from weights {origin}" for name, origin in sorted(source.weights.items())),
        "packages: " + ", ".join(f"{name} {number}" for name, number in sorted(source.packages.items())),
    ]
    return _list("## Provenance", facts)


def _number(estimate: Estimate | None) -> str:
    return "undefined" if estimate is None else f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def _list(title: str, items: Sequence[str]) -> str:
    return "\n\n".join([title, "\n".join(f"- {item}" for item in items)]) if items else ""


def _join(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(_cell(value) for value in line)} |" for line in lines)


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
