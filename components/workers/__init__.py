"""Training on several workers on Kubernetes: the train step is worker 0, a Job runs the others."""
