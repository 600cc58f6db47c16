"""Teachers, labels, losses and the distillation run. Needs torch, numpy and OpenCV; quantisation torchao besides."""
