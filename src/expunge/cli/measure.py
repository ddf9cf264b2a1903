"""Verbs that train, unlearn and measure."""

from typing import Any

from expunge.cli.shared import (
    MEASURE,
    OnRay,
    PrintConfig,
    Words,
    app,
    command_line,
    experiment_of,
    make_console,
    make_progress,
    print_lines,
    print_yaml,
    shown_path,
    words_of,
)


@app.command(rich_help_panel=MEASURE)
def demo(words: Words = None, ray: OnRay = None, print_config: PrintConfig = False) -> None:
    """Forget real data in real models, beside models that were retrained without it. About two minutes on a laptop."""
    file, overrides = words_of(words, ray)
    from expunge.bench import demo as demonstration

    requests = demonstration.requests(file, overrides)
    if print_config:
        from expunge.config import resolve

        return print_yaml(resolve(demonstration.tree(file, overrides)).tree())
    _compare(requests)


@app.command(rich_help_panel=MEASURE)
def train(words: Words = None, print_config: PrintConfig = False) -> None:
    """Train a model on all of the training data but the validation part, and on the forget set as well."""
    experiment = experiment_of(words)
    if print_config:
        return print_yaml(experiment.tree())
    from expunge.bench import single

    print_lines(single.train(experiment, make_progress(experiment.track)))


@app.command(rich_help_panel=MEASURE)
def unlearn(words: Words = None, print_config: PrintConfig = False) -> None:
    """Unlearn one request with one method, from `model.weights` or from an original that is trained first."""
    experiment = experiment_of(words)
    if print_config:
        return print_yaml(experiment.tree())
    from expunge.bench import single

    print_lines(single.unlearn(experiment, make_progress(experiment.track)))


@app.command(rich_help_panel=MEASURE)
def evaluate(words: Words = None, ray: OnRay = None, print_config: PrintConfig = False) -> None:
    """Measure a method against retrained models. Without forget and method: only the accuracy of the model."""
    experiment = experiment_of(words, ray)
    if print_config:
        return print_yaml(experiment.tree())
    if experiment.method is None and experiment.forget is None:
        from expunge.bench import single

        return print_lines(single.evaluate(experiment, make_progress(experiment.track)))
    from expunge.bench.compare import request_of

    _compare([request_of(experiment, "One request")])


def _compare(requests: Any) -> None:
    from expunge.bench.compare import compare
    from expunge.report import terminal

    with make_progress(requests[0].workplace().experiment.track) as progress:
        records, folder = compare(requests, progress.report, command_line())
        progress.report({"event": "result", "folder": str(folder)})
    console = make_console()
    for record in records:
        console.print(terminal.table(record))
    console.print(f"report: {shown_path(folder / 'report.html')}", soft_wrap=True, highlight=False, markup=False)
