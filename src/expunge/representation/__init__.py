"""What a model still holds inside, whatever it answers: features, probes, relearning, and controls that such tests must catch.

Most functions are pure functions of feature arrays ``[n, D]`` or logits ``[n, C]``; `features` reads these from a model.
"""
