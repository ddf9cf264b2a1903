"""Forward passes in bfloat16."""

from expunge.addons.applicability import changes_nothing, takes_no_gradient_step
from expunge.engine.context import Context
from expunge.engine.method import Addon, Method, Steps
from expunge.engine.phase import Phase


class MixedPrecision(Addon):
    """Computes the student's forward passes of every phase in bfloat16; weights, losses, gradients and the optimiser stay float32.

    Steps are 1.1 to 1.8 times as fast on a processor with AVX512-BF16 (``benchmarks/mixed_precision.py``), least where a teacher takes a
    large part of them, and GPUs have such instructions since Ampere; elsewhere bfloat16 is slower than float32. Passes that only score or
    teach, and one-shot edits, are not touched. Recipes train so by themselves where it is fast, and a method without this add-on takes more
    seconds for a pass than they do.

    Source: Micikevicius et al., Mixed Precision Training, ICLR 2018, arXiv 1710.03740; bfloat16 needs no scaling of losses.
    """

    aliases = ("amp", "bfloat16")
    source = "arXiv 1710.03740"
    deviations = ("bfloat16 in place of float16, so that losses need no scaling",)

    def rewrite(self, steps: Steps, ctx: Context) -> Steps:
        """Yield the steps, phases in lower precision."""
        for step in steps:
            yield step.but(precision="bfloat16") if isinstance(step, Phase) else step

    def refuse(self, method: Method) -> str:
        """Refuse methods without gradient steps."""
        return changes_nothing(method) or takes_no_gradient_step(method)
