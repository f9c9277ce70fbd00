"""Networks, losses, engines and the training loop."""
