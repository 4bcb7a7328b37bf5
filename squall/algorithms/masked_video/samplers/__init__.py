"""Which tokens of a clip are visible: samplers behind one interface, fixed and learned ones."""
