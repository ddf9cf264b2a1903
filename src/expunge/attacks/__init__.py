"""What an adversary can tell from many models' outputs: pure functions of margin matrices.

A margin is log(p_y / (1 - p_y)) of an example's true class under one model. Functions take matrices ``[models, examples]`` of them and
matrices of membership states of the same shape (`expunge.attacks.margins`). Nothing here sees a model, trains one, or reads a file.
"""
