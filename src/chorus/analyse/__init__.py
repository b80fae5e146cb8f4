"""What is inside task vectors and merges: spectra and ranks."""
