"""What a study of the laboratory is: a component that computes plain values, and turns them into a page."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from expunge.config import Component, Experiment
from expunge.lab.world import Report


@dataclass(frozen=True)
class Figure:
    """A chart.

    Attributes:
        charts: Plotly figures, ``{data, layout, frames}``, by the words with which a reader chooses between them; one needs no choice.
            A colour ``$name`` or ``$name/0.3`` is one of the page's, so that it fits a light and a dark page.
        caption: what is drawn and how to read it.
        height: in pixels, at most.
        ratio: height over width where the page is narrow; None keeps the height.
        label: what the words of ``charts`` are, for example ``net``.
        frame_label: what a frame is, for example ``epoch``.
    """

    charts: dict[str, dict[str, Any]]
    caption: str
    height: int = 420
    ratio: float | None = None
    label: str = "show"
    frame_label: str = "step"


@dataclass(frozen=True)
class Table:
    """Rows of texts under heads; the first column names the row."""

    heads: list[str]
    rows: list[list[str]]
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a page: paragraphs, then charts and tables in their order."""

    title: str
    text: list[str]
    content: list[Figure | Table] = field(default_factory=list)


@dataclass(frozen=True)
class Sheet:
    """All that a page says.

    Attributes:
        question: what the study asks, in a sentence.
        findings: what came out, in sentences that name the numbers; they are printed on the terminal too.
        facts: (name, value) of the setting.
        sections: the parts.
    """

    question: str
    findings: list[str]
    facts: list[tuple[str, str]]
    sections: list[Section]


class Lab(Component):
    """A study in which unlearning can be seen. A concrete one says what it computes and how that is shown.

    Class attributes: ``title``; ``takes``, the top-level keys that it reads beside seed, device and out; ``defaults``, what they are when
    nobody chooses.
    """

    title: ClassVar[str] = ""
    takes: ClassVar[tuple[str, ...]] = ("data", "model", "train", "forget", "method", "addons")
    defaults: ClassVar[dict[str, Any]] = {}

    def run(self, experiment: Experiment, report: Report) -> dict[str, Any]:
        """Return what was found, as plain values that JSON can hold.

        Args:
            experiment: data, model, recipe, request, method and seed.
            report: hears what is going on.

        Raises:
            BadInput: the setting does not fit the study.
        """
        raise NotImplementedError

    def sheet(self, found: dict[str, Any]) -> Sheet:
        """Return the page of what `run` has found."""
        raise NotImplementedError
