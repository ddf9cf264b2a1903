"""Rules by which hyper-parameters are chosen, one file each: what they may see, and what they call good."""
