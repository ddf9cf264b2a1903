"""The Python interface, for people who bring their own model and data."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from expunge import config
from expunge.config import Component
from expunge.data.examples import Examples, duplicates, stream_of
from expunge.data.joined import joined
from expunge.data.split import compared_classes
from expunge.engine import run as engine
from expunge.engine.context import Context
from expunge.engine.method import Addon, Method
from expunge.engine.stream import Stream, scoring_size
from expunge.errors import BadInput, nearest
from expunge.metrics.metric import Tier
from expunge.tracking.calls import followed

Choice = str | Mapping[str, Any] | Component
"""A registry name, a mapping with ``name`` and fields, or a component."""


@dataclass(frozen=True)
class Unlearned:
    """The result of `unlearn`.

    Attributes:
        model: the unlearned model, in eval mode.
        record: plain values: method, add-ons, seed, kind, sizes, duplicates, phases with their losses, cost.
    """

    model: nn.Module
    record: dict[str, Any]


def unlearn(
    model: nn.Module,
    method: Choice = "salun",
    *,
    forget: Examples,
    retain: Examples | None = None,
    validation: Examples | None = None,
    surrogate: Examples | None = None,
    oracle: nn.Module | None = None,
    addons: Sequence[Choice] = (),
    seed: int = 0,
    device: str | torch.device | None = None,
    kind: str | None = None,
    recipe: Choice | None = None,
    initialise: Callable[[int], Mapping[str, Tensor]] | None = None,
    head: str | None = None,
    inplace: bool = False,
    report: Callable[[dict[str, Any]], None] | None = None,
    track: Choice | Sequence[Choice] = (),
    **hyperparameters: Any,
) -> Unlearned:
    """Return a model from which the influence of some training data has been removed.

    Args:
        model: any module from x to logits ``[B, C]``; it is copied, never wrapped, and not changed unless ``inplace``. Parameters
            that require no gradient stay as they are.
        method: how; ``expunge list methods`` shows what there is.
        forget: the data to forget.
        retain: the rest of the training data, or a part of it; some methods do without.
        validation: data that the model was never trained on, for methods that stop or select by it.
        surrogate: unlabelled stand-in data, for methods that do without the training data; its labels are not used.
        oracle: a retrained model, for diagnostics that imitate it.
        addons: what is put on the method, innermost first.
        seed: of every random choice. The result depends on it, the data and the method, and not on batch sizes or workers.
        device: where to compute; the model's own device if None.
        kind: ``class`` (all examples of some classes), ``subclass`` (a part of one class) or ``random``; found from the labels of
            forget and retain if None.
        recipe: how the original was trained, for methods that train from scratch.
        initialise: returns a freshly initialised state dict for a seed; every layer's ``reset_parameters`` if None, but for layers that are
            frozen as a whole.
        head: name of the layer that makes the logits, where it cannot be found.
        inplace: write the new weights into ``model`` as well.
        report: called with one mapping for each event.
        track: one tracker or several, such as ``mlflow``, that are told while it runs; ``expunge list trackers`` shows what there is.
        hyperparameters: fields of the method, for example ``lr=0.02``.

    Raises:
        BadInput: unknown name or field, a value out of range, missing data, labels outside the model's outputs, values that are not finite.
        Diverged: the optimisation stopped being finite; ``model`` is unchanged.
    """
    target = _device(model, device)
    _check_seed(seed)
    for where, called in (("report", report), ("initialise", initialise)):
        if called is not None and not callable(called):
            raise BadInput(where, f"expected a function, got {called!r}.")
    work = copy.deepcopy(model).to(target)
    _check_weights(work)
    streams = {
        name: stream_of(name, examples, target)
        for name, examples in (("forget", forget), ("retain", retain), ("validation", validation), ("surrogate", surrogate))
        if examples is not None or name == "forget"
    }
    num_classes = _outputs(work, streams["forget"])
    _check_examples(streams, num_classes)
    copies = duplicates(streams)
    found, classes = _kind_of(streams, kind)
    chosen = _component("methods", method, "method", hyperparameters, found)
    if isinstance(addons, str | Mapping | Component):
        raise BadInput("addons", f"expected a list, got {addons!r}.", "Write addons=[...].")
    extra = [_component("addons", addon, f"addons.{_name_of(addon)}") for addon in addons or ()]
    trackers = _trackers(track)
    artefacts = [name for name, value in (("recipe", recipe), ("oracle", oracle)) if value is not None]
    engine.check(chosen, extra, kind=found, streams=tuple(streams), artefacts=artefacts)
    record: dict[str, Any] = {
        "method": chosen.tree(),
        "addons": [addon.tree() for addon in extra],
        "seed": seed,
        "kind": found,
        "sizes": {name: len(stream) for name, stream in streams.items()},
        "duplicates": copies,
    }
    with followed(trackers, "unlearn", chosen.name, {**record, "device": target.type}, report) as call:
        context = Context(
            work,
            joined(streams),
            needs=set(chosen.needs).union(*(addon.needs for addon in extra)),
            seed=seed,
            num_classes=num_classes,
            forget_classes=classes,
            kind=found,
            initialise=initialise,
            recipe=None if recipe is None else _component("recipes", recipe, "recipe"),
            oracle=oracle,
            head=head,
            report=call.report,
            detail=call.detail,
        )
        outcome = engine.run(context, chosen, extra)
        call.end(work, outcome.cost)
    if inplace:
        model.load_state_dict(work.state_dict())
    return Unlearned(model if inplace else work, {**record, "phases": outcome.phases, "cost": outcome.cost})


def train(
    model: nn.Module,
    data: Examples,
    recipe: Choice = "tiny",
    *,
    seed: int = 0,
    device: str | torch.device | None = None,
    checkpoint: Path | None = None,
    report: Callable[[dict[str, Any]], None] | None = None,
    track: Choice | Sequence[Choice] = (),
    **hyperparameters: Any,
) -> dict[str, Any]:
    """Train a model in place by a recipe, and return phases, losses and cost.

    Args:
        model: any module from x to logits, with the weights to start from.
        data: the training data.
        recipe: ``expunge list recipes`` shows what there is.
        seed: of order and augmentation.
        device: where to compute; the model's own device if None.
        checkpoint: a file that keeps the state after each epoch; a run that finds it goes on from there.
        report: called with one mapping for each event.
        track: see `unlearn`.
        hyperparameters: fields of the recipe.

    Raises:
        BadInput: see `unlearn`.
        Diverged: the optimisation stopped being finite.
    """
    from expunge.training.checkpoints import DiskCheckpoints
    from expunge.training.train import train as run_recipe

    target = _device(model, device)
    _check_seed(seed)
    model.to(target)
    stream = stream_of("train", data, target)
    num_classes = _outputs(model, stream)
    _check_examples({"train": stream}, num_classes)
    chosen = _component("recipes", recipe, "recipe", hyperparameters)
    checkpoints = DiskCheckpoints(checkpoint, identity=[chosen.tree(), seed]) if checkpoint is not None else None
    asked = {"train": chosen.tree(), "seed": seed, "device": target.type}
    with followed(_trackers(track), "train", chosen.name, asked, report) as call:
        watched: dict[str, Any] = {"report": call.report, "detail": call.detail}
        outcome = run_recipe(model, stream, chosen, seed=seed, num_classes=num_classes, checkpoints=checkpoints, **watched)
        call.end(model, outcome.cost)
    return {"recipe": chosen.tree(), "seed": seed, "phases": outcome.phases, "cost": outcome.cost}


def evaluate(
    original: nn.Module | Sequence[nn.Module],
    unlearned: Mapping[str, nn.Module | Sequence[nn.Module]],
    *,
    retrained: nn.Module | Sequence[nn.Module],
    forget: Examples,
    retain: Examples,
    test: Examples,
    validation: Examples | None = None,
    kind: str | None = None,
    tier: Tier = "fast",
    batch_size: int = 0,
) -> dict[str, Any]:
    """Return the table of every metric, with intervals, targets and the retrained band, as plain values; and the audits under ``audits``.

    Every model sees every example exactly once.

    Args:
        original: models before unlearning, one for each training seed; or one, from which all unlearned models come. Those are no
            replicates: their mean is judged like one model, without an interval or audits.
        unlearned: row name -> models, one for each seed, in the same order.
        retrained: models trained without the forget set, in the same order. A band needs at least two, and three for metrics of a pair of
            models; with an empty list there are no gaps.
            Those beyond the number of seeds, of seeds of their own, are what audits compare with; they need at least four.
        forget: the forgotten data, without augmentation.
        retain: the retained data, without augmentation.
        test: data that no model was trained on. In class requests the forgotten classes are set apart.
        validation: more unseen data; optional.
        kind: see `unlearn`.
        tier: which metrics and audits; those that need a base pool, shadow models or a look inside are skipped, and say so.
        batch_size: examples in a forward pass; 0 takes 64 on a processor, and 250 elsewhere.

    Raises:
        BadInput: different numbers of models or of their outputs, labels outside the outputs, every forgotten example among the retained
            or unseen ones, or every unseen one among the retained.
    """
    from expunge.bench import audits
    from expunge.metrics import table
    from expunge.metrics.view import View

    _check_settings(tier, batch_size)
    originals, oracles, rows_of = _models("original", original), _models("retrained", retrained), _rows_of(unlearned)
    _check_numbers(originals, rows_of)
    device = _device_of(originals[0])
    given = {"forget": forget, "retain": retain, "validation": validation, "test": test}
    streams = {name: stream_of(name, examples, device) for name, examples in given.items() if examples is not None or name != "validation"}
    num_classes = _outputs(originals[0], streams["forget"])
    _check_examples(streams, num_classes)
    others = [("original", originals[1:]), ("retrained", oracles), *((f"unlearned.{name}", models) for name, models in rows_of.items())]
    for where, models in others:
        for other in models:
            _check_outputs(where, other.to(device), streams["forget"], num_classes)
    found, classes = _kind_of(streams, kind)
    labels = {name: stream.labels.numpy() for name, stream in streams.items()}

    copies = duplicates(streams)

    def view(model: nn.Module) -> View | table.Failure:
        logits = {name: _logits(model.to(device), stream, batch_size) for name, stream in streams.items()}
        rows = sum(int((~np.isfinite(part).all(axis=1)).sum()) for part in logits.values())
        if rows:
            total = sum(map(len, logits.values()))
            return table.Failure("diverged", f"its outputs are not finite for {rows} of {total} examples")
        return View(*_parts(logits, labels, classes))

    rows: dict[str, Sequence[Any]] = {name: [view(model) for model in models] for name, models in rows_of.items()}
    start: list[Any] = [view(one) for one in originals]
    reference: list[Any] = [view(one) for one in oracles]
    for number, found_view in enumerate(reference):
        if isinstance(found_view, table.Failure):
            raise BadInput(f"retrained.{number}", f"{found_view.reason}.", "Train it again; there is nothing to compare with.")
    if all(isinstance(one, table.Failure) for one in start):
        raise BadInput("original", f"{start[0].reason}.", "Give the model as it was before unlearning.")
    result = table.evaluate(start, reference, rows, table.default_metrics(found, tier=tier), found)
    seen = {"original": start, "retrained": reference, **rows}
    result["duplicates"] = copies
    shared = table.shared_start(result["originals"], result["seeds"])
    no_law = {"reason": f"{shared}, so that no law over training seeds is seen."}
    result["audits"] = no_law if shared else audits.judge(seen, result["seeds"], audits.chosen(tier), kind=found)
    return result


def _parts(
    logits: dict[str, np.ndarray], labels: dict[str, np.ndarray], classes: tuple[int, ...]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Set the test examples of forgotten classes apart, and name what the forget set is compared with."""
    logits, labels = dict(logits), dict(labels)
    gone = np.isin(labels["test"], classes)
    if gone.any():
        logits["test_forgotten"], labels["test_forgotten"] = logits["test"][gone], labels["test"][gone]
        logits["test"], labels["test"] = logits["test"][~gone], labels["test"][~gone]
    same = "test_forgotten" if gone.any() else "test"
    compared = compared_classes(np.unique(labels["forget"]), np.array(classes, dtype=np.int64), logits["forget"].shape[1])
    alike = np.isin(labels[same], compared)
    logits["unseen"], labels["unseen"] = logits[same][alike], labels[same][alike]
    return logits, labels


@torch.no_grad()
def _logits(model: nn.Module, stream: Stream, size: int) -> np.ndarray:
    from expunge.engine.parameters import modes_kept

    with modes_kept(model):
        model.eval()
        return torch.cat([model(batch.x).float().cpu() for batch in stream.batches(scoring_size(model, size))]).numpy()


def _models(where: str, models: Any) -> list[nn.Module]:
    """Return one model or several as a list.

    Raises:
        BadInput: something else is among them.
    """
    found = [models] if isinstance(models, nn.Module) or not isinstance(models, Iterable) else list(models)
    for model in found:
        if not isinstance(model, nn.Module):
            remedy = "Give its .model." if isinstance(model, Unlearned) else "Give a torch.nn.Module, or a list of them."
            raise BadInput(where, f"got {type(model).__name__}.", remedy)
    return found


def _rows_of(unlearned: Any) -> dict[str, list[nn.Module]]:
    if not isinstance(unlearned, Mapping):
        raise BadInput("unlearned", f"expected a mapping, got {type(unlearned).__name__}.", 'Name the rows: {"salun": model}.')
    return {name: _models(f"unlearned.{name}", models) for name, models in unlearned.items()}


def _check_settings(tier: str, batch_size: int) -> None:
    if tier not in get_args(Tier):
        raise BadInput("tier", f"got {tier!r}.", nearest(tier, get_args(Tier)))
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 0:
        raise BadInput("batch_size", f"expected an integer from 0 on, got {batch_size!r}.")


def _check_numbers(originals: list[nn.Module], rows: Mapping[str, list[nn.Module]]) -> None:
    """Refuse rows that do not have a model for each seed."""
    if not originals:
        raise BadInput("original", "there is no model.", "Give the model before unlearning, or one for each seed.")
    seeds = max(len(originals), *map(len, rows.values()), 1)
    for name, models in rows.items():
        if len(models) != seeds:
            raise BadInput(f"unlearned.{name}", f"{_counted(len(models))} for {seeds} seeds.", "Give one for each seed, in the same order.")


def _counted(number: int) -> str:
    return f"{number} model" if number == 1 else f"{number} models"


def _check_outputs(where: str, model: nn.Module, stream: Stream, num_classes: int) -> None:
    if (found := _outputs(model, stream, where)) != num_classes:
        raise BadInput(where, f"a model has {found} outputs, the original {num_classes}.", "Compare models of the same classes.")


def _device(model: nn.Module, asked: str | torch.device | None) -> torch.device:
    from expunge.pools.workplace import choose_device

    own = _device_of(model)
    return own if asked is None else choose_device(str(asked))


def _check_seed(seed: Any) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise BadInput("seed", f"expected an integer of at least 0, got {seed!r}.")


def _device_of(model: nn.Module) -> torch.device:
    if not isinstance(model, nn.Module):
        raise BadInput("model", f"got {type(model).__name__}.", "Give a torch.nn.Module from x to logits.")
    parameter = next(model.parameters(), None)
    if parameter is None:
        raise BadInput("model", "has no parameters.", "Give a torch.nn.Module from x to logits.")
    return parameter.device


def _outputs(model: nn.Module, stream: Stream, where: str = "model") -> int:
    """Return the number of logits, found by one forward in eval mode."""
    from expunge.engine.parameters import modes_kept

    batch = next(stream.batches(2))
    try:
        with modes_kept(model), torch.no_grad():
            model.eval()
            logits = model(batch.x)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        single = all(value.dtype == torch.float32 for value in model.parameters())
        remedy = "Mend the inputs or the model." if single else "Inputs come in float32: give model.float(), or cast in its forward."
        raise BadInput(where, f"cannot take {stream.name} inputs of shape {list(batch.x.shape[1:])}: {reason}.", remedy) from error
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(batch):
        found = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise BadInput(where, f"expected logits of shape [B, C], got {found}.", "Wrap the model so that it returns logits only.")
    if logits.shape[1] < 2:
        remedy = "Wrap a model of two classes: logit = model(x); torch.cat([torch.zeros_like(logit), logit], 1)."
        raise BadInput(where, "has a single output, and needs one for each class.", remedy)
    return logits.shape[1]


def _check_examples(streams: Mapping[str, Stream], num_classes: int) -> None:
    shapes: dict[str, list[int]] = {name: list(stream.source.input_shape) for name, stream in streams.items()}  # type: ignore[attr-defined]
    first = next(iter(shapes))
    for name, stream in streams.items():
        if shapes[name] != shapes[first]:
            raise BadInput(name, f"its inputs have the shape {shapes[name]}, those of {first} {shapes[first]}.", "Give one shape.")
        low, high = int(stream.labels.min()), int(stream.labels.max())
        if low < 0 or high >= num_classes:
            raise BadInput(
                name, f"labels go from {low} to {high}, the model has outputs 0 to {num_classes - 1}.", "Mend the labels or the model."
            )
    _check_scales(streams)


def _check_scales(streams: Mapping[str, Stream]) -> None:
    """Refuse uint8 pictures, which reach the model in [0, 1], beside inputs on another scale; the first 250 examples are looked at."""
    pictures = [name for name, stream in streams.items() if stream.source.is_picture]  # type: ignore[attr-defined]
    for name, stream in streams.items() if pictures else ():
        x = next(stream.batches(250)).x if name not in pictures else torch.zeros(1)
        low, high = float(x.min()), float(x.max())
        if low < 0 or high > 1:
            found = f"its values go from {low:.4g} to {high:.4g}, while {pictures[0]} is uint8, which reaches the model in [0, 1]."
            raise BadInput(name, found, "Give all of them as uint8, or all as the model takes them.")


def _check_weights(model: nn.Module) -> None:
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise BadInput(
                "model", f"the weights {name!r} hold values that are not finite.", "Give a model that was saved before it diverged."
            )


def _kind_of(streams: Mapping[str, Stream], kind: str | None) -> tuple[str, tuple[int, ...]]:
    """Return the kind of the request and the classes that are forgotten as a whole."""
    touched = set(streams["forget"].labels.tolist())
    kept = set(streams["retain"].labels.tolist()) if "retain" in streams else None
    whole = touched - kept if kept is not None else (touched if kind == "class" else set())
    if kind is None:
        if kept is not None and whole == touched:
            kind = "class"
        else:
            kind = "subclass" if len(touched) == 1 else "random"
    if kind not in ("class", "random", "subclass"):
        raise BadInput("kind", f"got {kind!r}.", "Allowed: class, random, subclass.")
    return kind, tuple(sorted(whole)) if kind == "class" else ()


def _trackers(track: Choice | Sequence[Choice] | None) -> tuple[Any, ...]:
    chosen: Sequence[Choice] = [track] if isinstance(track, str | Mapping | Component) else track or ()
    return tuple(_component("trackers", one, f"track.{_name_of(one)}") for one in chosen)


def _name_of(choice: Any) -> str:
    if not isinstance(choice, str | Component | Mapping):
        return getattr(choice, "__name__", type(choice).__name__)
    return choice if isinstance(choice, str) else choice.name if isinstance(choice, Component) else str(choice.get("name", ""))


_VERBS: dict[str, type[Component]] = {"methods": Method, "addons": Addon}


def _component(kind: str, choice: Choice, where: str, fields: Mapping[str, Any] | None = None, request: str = "") -> Any:
    if isinstance(choice, type) and issubclass(choice, Component):
        raise BadInput(where, f"got the class {choice.__name__}.", f"Write {choice.__name__}(), or its name.")
    if not isinstance(choice, str | Component | Mapping):
        raise BadInput(where, f"got {choice!r}.", "Give a name, a mapping with a name and fields, or a component.")
    if isinstance(choice, Component):
        if not isinstance(choice, _VERBS.get(kind, Component)):
            raise BadInput(where, f"got {choice.name or type(choice).__name__}, which is of another kind.", f"See `expunge list {kind}`.")
        return choice.but(**fields) if fields else choice
    values = {"name": choice} if isinstance(choice, str) else dict(choice)
    return config.build(kind, {**values, **(fields or {})}, where, config.scenario_defaults(values, request))
