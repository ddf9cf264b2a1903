"""One of several methods, drawn by lot."""

from typing import Self

from pydantic import model_validator

from expunge.config import hyper
from expunge.engine import randomness
from expunge.engine.context import Context
from expunge.engine.method import Method, Steps
from expunge.methods.meta.parts import Part, check_parts, steps_of


class EnsembleDraw(Method):
    """Run one of several methods, drawn by the seed, so that models unlearned with many seeds mix what the methods do.

    It aims at tests that compare distributions of models: a mixture is harder to tell from retrained models than either method is.

    Source: sixth place of the NeurIPS 2023 unlearning challenge, which draws one of two recipes for each request; the default pair is ours.
    """

    source = "sixth place of the NeurIPS 2023 unlearning challenge"
    deviations = ("the released pair of recipes is not among the defaults; any methods can be named",)
    needs = {"forget", "retain"}

    parts: tuple[Part, ...] = hyper(("msg", "salun"), "the methods, by name or as {name: NAME, FIELD: VALUE}", min_length=1)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        check_parts(self.parts)
        return self

    def steps(self, ctx: Context) -> Steps:
        """Yield the steps of the drawn part."""
        yield from steps_of(self.parts[randomness.derive(ctx.seed, self.name) % len(self.parts)], ctx)
