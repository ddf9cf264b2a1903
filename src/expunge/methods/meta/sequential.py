"""Several methods, one after the other."""

from typing import Self

from pydantic import model_validator

from expunge.config import hyper
from expunge.engine.context import Context
from expunge.engine.method import Method, Steps
from expunge.methods.meta.parts import Part, check_parts, steps_of


class Sequential(Method):
    """Run several methods in order on the same request, each from the weights that the one before has left.

    Teachers and distances refer to the original throughout. The default repairs after ascent.

    Source: common practice, for example ascent and then fine-tuning in the NeurIPS 2023 unlearning challenge; the default is ours.
    """

    source = "common practice; no single publication"
    needs = {"forget", "retain"}

    parts: tuple[Part, ...] = hyper(("gradient_ascent", "finetune"), "the methods, by name or as {name: NAME, FIELD: VALUE}", min_length=1)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        check_parts(self.parts)
        return self

    def steps(self, ctx: Context) -> Steps:
        """Yield the steps of every part."""
        for part in self.parts:
            yield from steps_of(part, ctx)
