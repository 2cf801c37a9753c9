"""Many small trials at once: networks of equal shapes are stacked, and every call of one is a call of all.

A member of a pack runs the ordinary training loop. Only where it calls its network, or differentiates, does it wait
for the others (`lockstep`); the calls of all are then made as one (`calls`), with the weights of all in one tensor
(`stacked`). Everything else, from the learning rate to the objective, may differ from member to member, and the
result of a trial is that of the trial alone but for the rounding of sums.
"""

from ablate_core.compute import PackError
from ablate_core.packing.pack import Member, pack_key, train_pack

__all__ = ["Member", "PackError", "pack_key", "train_pack"]
