"""The only package that touches nnU-Net's folders, plans, preprocessing and naming."""
