"""One file a task: what a model is asked, what its answer is compared with, what is counted, how it is resampled."""
