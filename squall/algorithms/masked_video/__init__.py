"""A masked video autoencoder and samplers of its tokens, trained together: plain torch, without Ray, files or engines."""
