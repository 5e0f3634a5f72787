"""`consilia export`: ensembles, predictions and studies in the formats of other programs."""

from pathlib import Path
from typing import Annotated

import typer

from consilia.cli.options import STUDIES, Bundle, Device, Stores, Studies, StudyName, UnknownKind, share_cores

app = typer.Typer(help="Write ensembles, predictions and studies for other programs.", no_args_is_help=True)


@app.command()
def onnx(
    bundle: Bundle,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="A new or an empty folder.")],
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="[IMAGES]...", help="Image files to compare the graph on.")
    ] = None,
    study: Annotated[
        str | None,
        typer.Option("--study", metavar="STUDY", help="Compare it on 200 images of this study's folds instead."),
    ] = None,
    studies: Studies = STUDIES,
    stores: Stores = None,
) -> None:
    """Write an ensemble as one ONNX graph: squares of bytes in, calibrated probabilities out.

    Prediction sets, reasons for review and the gate for unusual images are not in the graph. It is written only where
    onnxruntime gives the golden outputs within 1e-4, and the ensemble's labels for all images.

    Example: consilia export onnx studies/demo/ensembles/greedy_calibrated --study demo --to exported
    """
    share_cores()
    from consilia.report.steps import show_steps

    with show_steps() as steps:
        import consilia

        opened = None if study is None else consilia.open_study(study, studies=studies, stores=stores)
        done = consilia.export_onnx(bundle, to, images=images or None, study=opened, progress=steps)
    print(
        f"{to}: graph.onnx; README.md says what it leaves out: prediction sets, reasons for review, the gate\n"
        f"golden    differs by at most {done.golden_difference:.1e}\n"
        f"images    {done.n_images} compared: every label is the same, probabilities differ by at most "
        f"{done.images_difference:.1e}"
    )


@app.command()
def dicom(
    bundle: Bundle,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="DICOM files.")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="A new or an empty folder.")],
    device: Device = "auto",
    on_unknown_kind: UnknownKind = "refuse",
) -> int:
    """Write what an ensemble says of DICOM images as DICOM: a Structured Report and a heat map of each.

    The report (TID 1500) has label, probabilities, prediction set and every reason for review; its observer is the
    ensemble, named by the bundle's hash. The heat map is a Secondary Capture. An image that is no DICOM file or cannot
    be read has nothing written; the others have, and the exit code is 1.

    Example: consilia export dicom studies/demo/ensembles/greedy_calibrated scans/*.dcm --to results
    """
    share_cores()
    from consilia.report.console import make_console
    from consilia.report.steps import show_steps

    with show_steps() as steps:
        import consilia

        done = consilia.export_dicom(
            bundle,
            images,
            to,
            device=device,
            on_unknown_kind=on_unknown_kind,
            progress=lambda n_done: steps("writing results", n_done, max(n_done, len(images))),
        )
    for error in done.errors:
        make_console(stderr=True).print(error, soft_wrap=True)
    print(f"{to}: a report and a heat map of {done.n_images} images each; not of {len(done.errors)}")
    return 1 if done.errors else 0


@app.command()
def mlflow(
    study: StudyName,
    tracking_uri: Annotated[
        str | None,
        typer.Option(metavar="URI", help="MLflow's, such as http://127.0.0.1:5000; default: as MLflow is set up."),
    ] = None,
    experiment: Annotated[str, typer.Option(metavar="NAME", help="MLflow's experiment; made if need be.")] = "consilia",
    studies: Studies = STUDIES,
) -> None:
    """Log a study to MLflow: the study as a run, its trials as runs below it, and its ensemble as a pyfunc model.

    One way, and safe to repeat: a second export adds what is new and changes nothing else.

    Example: consilia export mlflow demo --tracking-uri sqlite:///mlflow.db
    """
    from consilia.report.steps import show_steps

    with show_steps() as steps:
        import consilia

        opened = consilia.open_study(study, studies=studies)
        steps("logging to MLflow")
        done = consilia.export_mlflow(opened, tracking_uri=tracking_uri, experiment=experiment)
    print(
        f"study     run {done.run} of experiment {experiment}, {'written' if done.is_changed else 'as it was'}\n"
        f"trials    {done.n_new} new, {done.n_known} there before, {done.n_open} not ended yet\n"
        f"model     {done.model or 'none: the ensemble is not built'}"
    )
