"""What a value outside the retrained models' band means, in the words that several metrics share."""

MEMBER = "the forget set still looks like training data"
OVER = "the forget set looks less like training data than unseen data do (over-unlearned)"
CALLED_UNSEEN = "the membership attack calls more of the forget set unseen than for a retrained model (over-unlearned)"
CALLED_MEMBER = "the membership attack still calls too much of the forget set training data"
TOO_LITTLE = "forgets too little"
TOO_MUCH = "forgets too much"
