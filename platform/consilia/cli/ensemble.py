"""Commands that build, measure and use an ensemble: ensemble, evaluate, compare, predict, explain, figures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from consilia.cli.options import (
    STORES,
    STUDIES,
    Bundle,
    CardSettings,
    Device,
    MeasuredCard,
    Stores,
    Studies,
    StudyName,
    TestOf,
    UnknownKind,
    share_cores,
)

if TYPE_CHECKING:
    from consilia import DataCard, EnsemblePredictor, Study
    from consilia.study.view import Steps

Precision = Annotated[
    Literal["auto", "float32", "bfloat16"],  # of `predict.precision`
    typer.Option(help="auto: on a GPU the fastest that moves no probability by more than 0.01."),
]
Prevalence = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CLASS=SHARE", help="How common a class is where you predict; all classes but one must be given."
    ),
]
MaxMembers = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Ask only the N members of the largest weights: faster, less accurate."),
]
ImageFiles = Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Image files.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(ensemble)
    app.command()(evaluate)
    app.command()(compare)
    app.command()(predict)
    app.command()(explain)
    app.command()(figures)


def ensemble(
    study: StudyName,
    recipe: Annotated[str, typer.Option(help="Name of a recipe, or a file of your own.")] = "greedy_calibrated",
    refit: Annotated[
        bool, typer.Option("--refit", help="Train the networks that a recipe with build: fast ships, where missing.")
    ] = False,
    test: Annotated[
        bool, typer.Option("--test", help="Measure it on the locked test too, and write the opening down.")
    ] = False,
    address: Annotated[
        str | None, typer.Option("--address", help="A running Ray cluster for --refit. Without it, the study's own.")
    ] = None,
    studies: Studies = STUDIES,
    stores: Stores = None,
) -> None:
    """Build another ensemble from a study's stored predictions, without training.

    A recipe such as `fast` ships networks that are trained on all images; --refit trains those that are missing.
    The locked test is opened for the study's own recipe alone, unless --test asks for it.

    Example: consilia ensemble pneumonia --recipe soft_vote
    """
    if not refit:
        share_cores()  # refits train in processes of Ray, which would inherit it
    import consilia
    from consilia.cli.show import show_result, watch

    if address is not None and not refit:
        raise consilia.UserError(
            "--address is where --refit trains; without it nothing is trained. Leave it out, or add --refit."
        )
    found = consilia.open_study(study, studies=studies, stores=stores)
    with watch(found.plan) as view:
        result = found.build(recipe, refit=refit, test=test, address=address, view=view)
    show_result(result)


def evaluate(
    bundle: Bundle,
    card: MeasuredCard = None,
    study: TestOf = None,
    settings: CardSettings = None,
    by: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Measure groups of images too: sex, or age=18,40,65; may be repeated."),
    ] = None,
    studies: Studies = STUDIES,
    stores: Stores = None,
    device: Device = "auto",
) -> None:
    """Measure an ensemble on a card's test split, or on all images of a card that has none.

    --study takes the locked test of a study; so does the card of the ensemble's own study. It is written down.

    Example: consilia evaluate studies/pneumonia/ensembles/greedy_calibrated pneumoniamnist --set path=FILE
    """
    share_cores()
    from consilia.report.steps import show_steps

    with show_steps() as steps:
        import consilia
        from consilia.cli.show import show_evaluation, show_subgroups

        chosen = _card_or_study(card, settings, study, studies=studies, stores=stores, steps=steps)
        found = consilia.evaluate_on_card(
            bundle, chosen, by=by or (), stores=stores or STORES, device=device, steps=steps
        )
    show_evaluation(found.evaluation)
    show_subgroups(found.subgroups)


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="Folder of the ensemble that is judged.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Folder of the one that it is compared with.")],
    card: MeasuredCard = None,
    study: TestOf = None,
    settings: CardSettings = None,
    studies: Studies = STUDIES,
    stores: Stores = None,
    device: Device = "auto",
) -> None:
    """Say whether one ensemble is better than another on the same images, or whether that cannot be told.

    Example: consilia compare studies/new/ensembles/greedy studies/old/ensembles/greedy pneumoniamnist --set path=FILE
    """
    share_cores()
    from consilia.report.steps import show_steps

    with show_steps() as steps:
        import consilia
        from consilia.cli.show import show_comparison

        chosen = _card_or_study(card, settings, study, studies=studies, stores=stores, steps=steps)
        found = consilia.compare_on_card(first, second, chosen, stores=stores or STORES, device=device, steps=steps)
    show_comparison(found)


def predict(
    bundle: Bundle,
    images: ImageFiles,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write a CSV instead of a table.")] = None,
    device: Device = "auto",
    on_unknown_kind: UnknownKind = "refuse",
    prevalence: Prevalence = None,
    max_members: MaxMembers = None,
    precision: Precision = "auto",
) -> int:
    """Predict images: label, confidence, and every class's calibrated probability.

    An image that cannot be read gets a row with its error; the others are predicted, and the exit code is 1.

    Example: consilia predict studies/demo/ensembles/greedy_calibrated data/samples/*.png --out predictions.csv
    """
    share_cores()
    from consilia.report.predictions import print_predictions, write_predictions

    predictor = load_as_asked(bundle, device, precision, prevalence, max_members)
    rows = predictor.iterate_named(images, on_unknown_kind=on_unknown_kind)
    if out is None:
        n_bad = print_predictions(rows, predictor.classes)
    else:
        n_images, n_bad = write_predictions(rows, predictor.classes, out)
        print(f"{out}: {n_images} images, {n_bad} of them unreadable")
    if predictor.precision != "float32":
        print(f"computed in {predictor.precision}")
    if predictor.without_sets:
        print(f"no prediction sets: {predictor.without_sets}")
    return 1 if n_bad else 0


def explain(
    bundle: Bundle,
    images: ImageFiles,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new or an empty folder for the heat maps.")],
    label: Annotated[
        str | None, typer.Option(metavar="CLASS", help="The class to explain; default: each image's most probable one.")
    ] = None,
    device: Device = "auto",
    on_unknown_kind: UnknownKind = "refuse",
) -> int:
    """Draw which places of each image raise the log odds of a class, and by how much: PNG, array, and index.csv.

    A heat map does not outline a finding, and a wrong prediction has one too. Where it would say nothing, the picture
    says why. An image that cannot be read has its error in the index; the others are explained, and the exit code is 1.

    Example: consilia explain studies/demo/ensembles/greedy_calibrated data/samples/*.png --out heat_maps
    """
    share_cores()
    from consilia.report.console import make_console
    from consilia.report.steps import show_steps

    with show_steps() as steps:
        import consilia
        from consilia.predict.explain import CAUTION

        steps("loading the ensemble")
        predictor = consilia.load(bundle, device=device, precision="float32")
        steps("explaining images", 0, len(images))
        done = consilia.write_explanations(
            predictor,
            images,
            out,
            label=label,
            on_unknown_kind=on_unknown_kind,
            progress=lambda n_done: steps("explaining images", n_done, max(n_done, len(images))),
        )
    for error in done.errors:
        make_console(stderr=True).print(error, soft_wrap=True)
    print(f"{out}: {done.n_images} images, {len(done.errors)} of them unreadable\n{CAUTION}")
    return 1 if done.errors else 0


def figures(
    bundle: Bundle,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the figures and their numbers.")],
    card: MeasuredCard = None,
    study: TestOf = None,
    settings: CardSettings = None,
    studies: Studies = STUDIES,
    stores: Stores = None,
    device: Device = "auto",
) -> None:
    """Draw an ensemble on a card's test split, or on all images of a card that has none: SVG, PNG, and the numbers.

    Reliability, ROC, precision and recall, risk and coverage, confusion; of several members, how alike they err and
    what each adds.

    Example: consilia figures studies/pneumonia/ensembles/greedy_calibrated other_card.yaml --out figures
    """
    share_cores()
    from consilia.report.steps import show_steps

    with show_steps() as steps:
        import consilia

        chosen = _card_or_study(card, settings, study, studies=studies, stores=stores, steps=steps)
        written = consilia.write_figures(bundle, chosen, out=out, stores=stores or STORES, device=device, steps=steps)
    print("\n".join(map(str, written.files)))
    for note in written.notes:
        print(f"note      {note}")


def _card_or_study(
    card: str | None,
    settings: list[str] | None,
    study: str | None,
    *,
    studies: str,
    stores: str | None,
    steps: "Steps",
) -> "DataCard | Study":
    """Return what is measured on: a card with its settings, or a study, whose locked test is meant."""
    import consilia
    from consilia.study.view import StepsView

    if (card is None) == (study is None):
        raise consilia.UserError("Say which images to measure on: either a CARD or --study STUDY.")
    if card is not None:
        return consilia.read_card(card, settings=settings or ())
    if settings:
        raise consilia.UserError("--set changes a card, but a study's locked test is as it is. Leave --set out.")
    return consilia.open_study(str(study), studies=studies, stores=stores, view=StepsView(steps))


def load_as_asked(
    bundle: Path, device: str, precision: Precision, prevalence: list[str] | None, max_members: int | None
) -> "EnsemblePredictor":
    """Return the predictor of a bundle with what the options of a command ask for."""
    import consilia

    predictor = consilia.load(bundle, device=device, precision=precision)
    if max_members is not None:
        predictor = predictor.with_members(max_members)
    if prevalence:
        predictor = predictor.for_prevalence(dict(map(_share, prevalence)))
    return predictor


def _share(text: str) -> tuple[str, float]:
    """Return class and share of CLASS=SHARE."""
    from consilia.errors import UserError

    name, _, share = text.rpartition("=")
    try:
        return name, float(share)
    except ValueError:
        raise UserError(f"--prevalence must be CLASS=SHARE, such as pneumonia=0.02, but is {text!r}.") from None
