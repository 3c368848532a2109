"""Several processes that train one model, and the way of its weights to the generators."""
