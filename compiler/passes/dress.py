def plain(model):
    return model, {}
