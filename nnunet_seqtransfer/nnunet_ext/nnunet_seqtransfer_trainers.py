"""What nnU-Net's trainer search sees through nnUNet_extTrainer: our trainers, under their installed names.

This folder has no __init__.py on purpose. nnU-Net puts it on sys.path and imports each module in it as a top-level
one; the classes come from the installed package, so they are the same objects in every process and can be pickled.
"""

from nnunet_seqtransfer.trainers.seq_transfer import nnUNetTrainerSeqTransfer

__all__ = ["nnUNetTrainerSeqTransfer"]
