"""Trainers that nnU-Net's search finds through the variable nnUNet_extTrainer.

This folder has no __init__.py on purpose: nnU-Net puts it on sys.path and imports each module as a top-level one. The
classes come from the installed package, so they are the same objects in every process and can be pickled.
"""

from nnunet_seqtransfer.trainers.seq_transfer import nnUNetTrainerSeqTransfer

__all__ = ["nnUNetTrainerSeqTransfer"]
